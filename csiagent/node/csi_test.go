package node

import (
	"errors"
	"fmt"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

func TestAMountIsTheSameOnTheOtherSideOfTheWire(t *testing.T) {
	for name, m := range map[string]mount.Mount{
		"with everything": {
			Spec:         mount.Spec{ID: "m1", Volume: "pv", SubPath: "a/b", Target: "/data", ReadOnly: true, Container: "main", AllowNonEmpty: true},
			Driver:       mount.DriverOSS,
			VolumeHandle: "Handle/verbatim",
			Attributes:   map[string]string{"bucket": "b", "otherOpts": "-o umask=022"},
			Options:      []string{"ro", "noexec"},
			AccessMode:   mount.ReadWriteMany,
			Owner:        mount.Owner{UID: 1000, GID: 1001},
			Enforced:     true,
			FSType:       "cifs",
			Secret:       mount.Secret{"akId": "x", "same": "publish"},
			StageSecret:  mount.Secret{"key": "y", "same": "stage"},
		},
		"with a secret for staging only": {
			Spec: mount.Spec{Volume: "pv", Target: "/data"}, Driver: "foreign.example", VolumeHandle: "h", Attributes: map[string]string{},
			AccessMode: mount.ReadWriteOnce, StageSecret: mount.Secret{"key": "y"},
		},
		"with little": {
			Spec: mount.Spec{Volume: "pv", Target: "/data"}, Driver: mount.DriverTmpfs, VolumeHandle: "h", Attributes: map[string]string{},
			AccessMode: mount.ReadWriteOncePod,
		},
	} {
		got, err := fromRequest(PublishRequest(m), "another driver")
		require.NoError(t, err)
		require.Equal(t, m, got, name)
	}
}

func TestAnAttributeCannotTakeThePlaceOfWhatTheMountSays(t *testing.T) {
	keys := []string{keyID, keyVolume, keyDriver, keyContainer, keySubPath, keyOwner, keyMode, keyEnforced, keyNonEmpty, stagePrefix + "key"}
	for name, m := range map[string]mount.Mount{
		"that says much": {
			Spec:   mount.Spec{ID: "m1", Volume: "pv", SubPath: "b", Target: "/data", Container: "main"},
			Driver: "foreign.example", VolumeHandle: "h", Prefix: "a", Owner: mount.Owner{UID: 1000, GID: 1001}, AccessMode: mount.ReadOnlyMany,
		},
		"that says little": {Spec: mount.Spec{Volume: "pv", Target: "/data"}, Driver: "foreign.example", VolumeHandle: "h", AccessMode: mount.ReadWriteOnce},
	} {
		t.Run(name, func(t *testing.T) {
			want := PublishRequest(m).GetVolumeContext()
			m.Attributes = map[string]string{}
			for _, k := range keys {
				m.Attributes[k] = "1:1"
			}
			require.Equal(t, want, PublishRequest(m).GetVolumeContext())
		})
	}
}

func TestAForeignRequestIsUnderstoodWithoutOurKeys(t *testing.T) {
	got, err := fromRequest(&csi.NodePublishVolumeRequest{
		VolumeId: "h", TargetPath: "/t", VolumeContext: map[string]string{"size": "1Mi"},
		VolumeCapability: &csi.VolumeCapability{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{MountFlags: []string{"ro,noexec", " noatime "}}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY},
		},
	}, "tmpfs.example")
	require.NoError(t, err)
	require.Equal(t, mount.Mount{
		Spec: mount.Spec{Volume: "volume", Target: "/t"}, Driver: "tmpfs.example", VolumeHandle: "h",
		Attributes: map[string]string{"size": "1Mi"}, Options: []string{"ro", "noexec", "noatime"}, AccessMode: mount.ReadOnlyMany,
	}, got)
}

func TestARequestThatIsNotAMountIsRefusedByField(t *testing.T) {
	for want, change := range map[string]func(*csi.NodePublishVolumeRequest){
		"volume_id":         func(r *csi.NodePublishVolumeRequest) { r.VolumeId = "" },
		"target_path":       func(r *csi.NodePublishVolumeRequest) { r.TargetPath = "" },
		"volume_capability": func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability = nil },
		"block": func(r *csi.NodePublishVolumeRequest) {
			r.VolumeCapability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		},
		"uid:gid": func(r *csi.NodePublishVolumeRequest) { r.VolumeContext[keyOwner] = "root" },
	} {
		r := PublishRequest(mount.Mount{Spec: mount.Spec{Target: "/t"}, VolumeHandle: "h"})
		change(r)
		_, err := fromRequest(r, "d")
		require.Equal(t, codes.InvalidArgument, status.Code(err), want)
		require.ErrorContains(t, err, want)
	}
}

func TestEachKindOfErrorHasItsCodeAndWhatHasNoneStaysInside(t *testing.T) {
	for err, want := range map[error]codes.Code{
		ErrConflict:           codes.AlreadyExists,
		ErrDataLoss:           codes.DataLoss,
		mount.ErrInvalid:      codes.InvalidArgument,
		mount.ErrDenied:       codes.PermissionDenied,
		mount.ErrNotFound:     codes.NotFound,
		mount.ErrUnavailable:  codes.Unavailable,
		errors.New("/secret"): codes.Internal,
		translate(fmt.Errorf("x: %w", probe.ErrHung)):         codes.Unavailable,
		translate(fmt.Errorf("x: %w", attach.ErrBusy)):        codes.AlreadyExists,
		translate(fmt.Errorf("x: %w", attach.ErrUnsafe)):      codes.PermissionDenied,
		translate(fmt.Errorf("x: %w", attach.ErrReadOnly)):    codes.PermissionDenied,
		translate(fmt.Errorf("x: %w", attach.ErrNotFound)):    codes.NotFound,
		translate(fmt.Errorf("/secret: %w", attach.ErrStuck)): codes.Internal,
	} {
		got := toStatus(fmt.Errorf("publish: %w", err))
		require.Equal(t, want, status.Code(got), err)
		require.NotContains(t, got.Error(), "/secret")
	}
	require.Equal(t, codes.InvalidArgument, status.Code(toStatus(mount.Faults{{Field: mount.FieldTarget, Reason: "is wrong"}})))
	require.NoError(t, toStatus(nil))
}

func TestTheFingerprintKnowsNoSecret(t *testing.T) {
	m := mount.Mount{Spec: mount.Spec{Volume: "pv", Target: "/data"}, Driver: "d", VolumeHandle: "h"}
	bare, err := newRecord(m)
	require.NoError(t, err)
	m.Secret, m.StageSecret = mount.Secret{"a": "1"}, mount.Secret{"b": "2"}
	with, err := newRecord(m)
	require.NoError(t, err)
	require.Equal(t, bare, with)
}
