package volume_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

// objects is a Reader over maps; fail is what it answers instead, by name.
type objects struct {
	volumes map[string]*corev1.PersistentVolume
	claims  map[string]*corev1.PersistentVolumeClaim // by namespace/name
	secrets map[string]*corev1.Secret
	fail    map[string]error
	reads   int
}

func (o *objects) PersistentVolume(_ context.Context, name string) (*corev1.PersistentVolume, error) {
	o.reads++
	if err := o.fail[name]; err != nil {
		return nil, err
	}
	if pv := o.volumes[name]; pv != nil {
		return pv, nil
	}
	return nil, warmpool.Errorf(warmpool.NotFound, "no PersistentVolume %q", name)
}

func (o *objects) PersistentVolumeClaim(_ context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	if err := o.fail[namespace+"/"+name]; err != nil {
		return nil, err
	}
	if pvc := o.claims[namespace+"/"+name]; pvc != nil {
		return pvc, nil
	}
	return nil, warmpool.Errorf(warmpool.NotFound, "no PersistentVolumeClaim %q", name)
}

func (o *objects) Secret(_ context.Context, namespace, name string) (*corev1.Secret, error) {
	if err := o.fail[namespace+"/"+name]; err != nil {
		return nil, err
	}
	if s := o.secrets[namespace+"/"+name]; s != nil {
		return s, nil
	}
	return nil, warmpool.Errorf(warmpool.NotFound, "no Secret %q", name)
}

func tmpfs(edit ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}}
	pv.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
	pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{
		Driver: mount.DriverTmpfs, VolumeHandle: "handle", VolumeAttributes: map[string]string{"size": "64Mi"},
	}
	for _, e := range edit {
		e(pv)
	}
	return pv
}

func oss(edit ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	return tmpfs(append([]func(*corev1.PersistentVolume){func(pv *corev1.PersistentVolume) {
		pv.Spec.CSI.Driver = mount.DriverOSS
		pv.Spec.CSI.VolumeAttributes = map[string]string{"bucket": "b", "url": "http://127.0.0.1:1"}
		pv.Spec.CSI.NodePublishSecretRef = &corev1.SecretReference{Namespace: v1alpha1.SystemNamespace, Name: "cred"}
	}}, edit...)...)
}

func plain(source corev1.PersistentVolumeSource) *corev1.PersistentVolume {
	return tmpfs(func(pv *corev1.PersistentVolume) { pv.Spec.PersistentVolumeSource = source })
}

func secret(data map[string]string) *corev1.Secret {
	s := &corev1.Secret{Data: map[string][]byte{}}
	for k, v := range data {
		s.Data[k] = []byte(v)
	}
	return s
}

func request(specs ...mount.Spec) volume.Request {
	return volume.Request{
		Principal: warmpool.Principal{Team: "red", Key: "k1"},
		Template: warmpool.Template{
			Name: "base", Runtimes: []string{"csi"}, Containers: []warmpool.Container{{Name: "sandbox", Mounts: true, Memory: 64 << 20}, {Name: "side"}, {Name: "open", Mounts: true, Memory: 32 << 20}}, Owner: mount.Owner{UID: 1000, GID: 1001},
		},
		Specs:   specs,
		Drivers: []string{mount.DriverTmpfs, mount.DriverHostPath, mount.DriverOSS},
	}
}

func spec(name string) mount.Spec { return mount.Spec{ID: "m", Volume: name, Target: "/data"} }

func TestAVolumeIsResolvedToItsMount(t *testing.T) {
	r := &objects{
		volumes: map[string]*corev1.PersistentVolume{"pv": oss(func(pv *corev1.PersistentVolume) {
			pv.Spec.MountOptions = []string{"nolock,tcp,noresvport", " vers=3 "}
		})},
		secrets: map[string]*corev1.Secret{"sandbox-system/cred": {
			Data:       map[string][]byte{"akId": []byte("id"), "akSecret": []byte("old")},
			StringData: map[string]string{"akSecret": "new"},
		}},
	}
	got, err := volume.Resolve(t.Context(), r, request(spec("pv")))
	require.NoError(t, err)
	require.Equal(t, []mount.Mount{{
		Spec:         spec("pv"),
		Driver:       mount.DriverOSS,
		VolumeHandle: "handle",
		Attributes:   map[string]string{"bucket": "b", "url": "http://127.0.0.1:1"},
		Options:      []string{"nolock", "tcp", "noresvport", "vers=3"},
		AccessMode:   mount.ReadWriteMany,
		Owner:        mount.Owner{UID: 1000, GID: 1001},
		Secret:       mount.Secret{"akId": "id", "akSecret": "new"},
	}}, got)
}

func TestPlainSourcesBecomeHostPaths(t *testing.T) {
	host := func(t corev1.HostPathType) corev1.PersistentVolumeSource {
		return corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv/x", Type: ptr.To(t)}}
	}
	for name, c := range map[string]struct {
		source corev1.PersistentVolumeSource
		want   map[string]string
	}{
		"hostPath":               {corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv/x"}}, map[string]string{"path": "/srv/x"}},
		"hostPath of no type":    {host(""), map[string]string{"path": "/srv/x"}},
		"hostPath that is there": {host(corev1.HostPathDirectory), map[string]string{"path": "/srv/x", "type": "Directory"}},
		"hostPath to be made":    {host(corev1.HostPathDirectoryOrCreate), map[string]string{"path": "/srv/x", "type": "DirectoryOrCreate"}},
		"local":                  {corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/srv/x"}}, map[string]string{"path": "/srv/x"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := volume.Resolve(t.Context(), &objects{volumes: map[string]*corev1.PersistentVolume{"pv": plain(c.source)}}, request(spec("pv")))
			require.NoError(t, err)
			require.Equal(t, mount.DriverHostPath, got[0].Driver)
			require.Equal(t, "pv", got[0].VolumeHandle)
			require.Equal(t, c.want, got[0].Attributes)
		})
	}
}

func TestAnNFSSourceIsTheNASDrivers(t *testing.T) {
	pv := plain(corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{Server: "10.0.0.7", Path: "/share", ReadOnly: true}})
	req := request(spec("pv"))
	req.Drivers = []string{mount.DriverNAS}
	got, err := volume.Resolve(t.Context(), &objects{volumes: map[string]*corev1.PersistentVolume{"pv": pv}}, req)
	require.NoError(t, err)
	require.Equal(t, mount.DriverNAS, got[0].Driver)
	require.Equal(t, map[string]string{"server": "10.0.0.7", "path": "/share"}, got[0].Attributes)
	require.True(t, got[0].ReadOnly && got[0].Enforced)
}

func TestFsTypeChoosesTheClientOfAnObjectStore(t *testing.T) {
	for _, c := range []struct {
		name, fsType string
		have, want   map[string]string
	}{
		{"where nothing else does", "ossfs2", map[string]string{"bucket": "b"}, map[string]string{"bucket": "b", "fuseType": "ossfs2"}},
		{"also the one that the agent's image has", "s3fs", map[string]string{"bucket": "b"}, map[string]string{"bucket": "b", "fuseType": "s3fs"}},
		{"where there are no attributes", "ossfs", nil, map[string]string{"fuseType": "ossfs"}},
		{"but fuseType goes first, in any letters", "ossfs2", map[string]string{"FuseType": "ossfs"}, map[string]string{"FuseType": "ossfs"}},
		{"and what a provisioner fills in does not", "ext4", map[string]string{"bucket": "b"}, map[string]string{"bucket": "b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pv := oss(func(pv *corev1.PersistentVolume) { pv.Spec.CSI.FSType, pv.Spec.CSI.VolumeAttributes = c.fsType, c.have })
			r := &objects{volumes: map[string]*corev1.PersistentVolume{"pv": pv}, secrets: map[string]*corev1.Secret{"sandbox-system/cred": secret(nil)}}
			got, err := volume.Resolve(t.Context(), r, request(spec("pv")))
			require.NoError(t, err)
			require.Equal(t, c.want, got[0].Attributes)
		})
	}
}

func TestAnAttributeThatOnlyTheSystemSetsIsRefusedByName(t *testing.T) {
	const driver = "foreign.example"
	for _, name := range []string{"sandgate.dev/sub-path", "sandgate.dev/driver", "sandgate.dev/anything"} {
		pv := tmpfs(func(pv *corev1.PersistentVolume) {
			pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: "h", VolumeAttributes: map[string]string{name: "x", "server": "s"}}
		})
		req := request(spec("pv"))
		req.Drivers, req.Template.Runtimes = []string{driver}, []string{"csi-foreign"}
		_, err := volume.Resolve(t.Context(), &objects{volumes: map[string]*corev1.PersistentVolume{"pv": pv}}, req)
		require.ErrorContains(t, err, "the attribute "+name+" is not one of a driver")
	}
}

func TestAnFSTypeThatTheDriverDoesNotHaveIsRefusedByName(t *testing.T) {
	for driver, fit := range map[string][]string{
		mount.DriverOSS: {"ossfs", "ossfs2", "s3fs"}, mount.DriverNAS: {"nfs", "nfs4"}, mount.DriverTmpfs: {"tmpfs"},
	} {
		for _, fsType := range []string{"", "s3fs", "ossfs", "ossfs2", "ossfs3", "nfs", "nfs4", "cifs", "tmpfs", "ext4", "xfs"} {
			pv := tmpfs(func(pv *corev1.PersistentVolume) { pv.Spec.CSI.Driver, pv.Spec.CSI.FSType = driver, fsType })
			r, req := &objects{volumes: map[string]*corev1.PersistentVolume{"pv": pv}}, request(spec("pv"))
			req.Drivers = []string{driver}
			_, err := volume.Resolve(t.Context(), r, req)
			if slices.Contains(append(fit, "", "ext4", "xfs"), fsType) {
				require.NoError(t, err, "%s of %s", fsType, driver)
				continue
			}
			require.ErrorContains(t, err, fmt.Sprintf("spec.csi.fsType is %q; driver %s takes %s or ", fsType, driver, fit[0]))
		}
	}
}

func TestReadOnlyIsTheRequestsOrTheVolumes(t *testing.T) {
	modes := func(m ...corev1.PersistentVolumeAccessMode) func(*corev1.PersistentVolume) {
		return func(pv *corev1.PersistentVolume) { pv.Spec.AccessModes = m }
	}
	cases := []struct {
		name  string
		asked bool
		edit  func(*corev1.PersistentVolume)
		want  bool
		mode  mount.AccessMode
	}{
		{"nobody says so", false, modes(corev1.ReadWriteOnce), false, mount.ReadWriteOnce},
		{"the request says so", true, modes(corev1.ReadWriteOnce), true, mount.ReadWriteOnce},
		{"csi.readOnly", false, func(pv *corev1.PersistentVolume) { pv.Spec.CSI.ReadOnly = true }, true, mount.ReadWriteMany},
		{"only ReadOnlyMany", false, modes(corev1.ReadOnlyMany), true, mount.ReadOnlyMany},
		{"ReadOnlyMany beside a writing mode", false, modes(corev1.ReadOnlyMany, corev1.ReadWriteMany), false, mount.ReadWriteMany},
		{"mount option ro", false, func(pv *corev1.PersistentVolume) { pv.Spec.MountOptions = []string{"noatime,ro"} }, true, mount.ReadWriteMany},
		{"no access mode at all", false, modes(), false, mount.ReadWriteOnce},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := spec("pv")
			s.ReadOnly = c.asked
			got, err := volume.Resolve(t.Context(), &objects{volumes: map[string]*corev1.PersistentVolume{"pv": tmpfs(c.edit)}}, request(s))
			require.NoError(t, err)
			require.Equal(t, c.want, got[0].ReadOnly)
			require.Equal(t, c.want && !c.asked, got[0].Enforced, "what the caller asks for himself is his own matter")
			require.Equal(t, c.mode, got[0].AccessMode)
		})
	}
}

func TestWhoMayMountAVolume(t *testing.T) {
	const hidden = "no PersistentVolume of that name that you may mount"
	bound := func(pv *corev1.PersistentVolume) { pv.Spec.ClaimRef = &corev1.ObjectReference{Name: "db"} }
	teams := func(list string) func(*corev1.PersistentVolume) {
		return func(pv *corev1.PersistentVolume) { pv.Annotations = map[string]string{v1alpha1.AnnotationTeams: list} }
	}
	block := func(pv *corev1.PersistentVolume) { pv.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }
	cases := []struct {
		name    string
		team    string
		volume  *corev1.PersistentVolume
		allowed bool
	}{
		{"an unbound volume is everybody's", "red", tmpfs(), true},
		{"a bound volume is nobody's", "red", tmpfs(bound), false},
		{"a bound volume whose annotation names the team", "red", tmpfs(bound, teams("blue, red")), true},
		{"a bound volume whose annotation names others", "red", tmpfs(bound, teams("blue")), false},
		{"an unbound volume whose annotation names others", "red", tmpfs(teams("blue")), false},
		{"an unbound volume whose annotation names the team", "red", tmpfs(teams("red")), true},
		{"an empty annotation names nobody", "red", tmpfs(teams("")), false},
		{"a team that is part of a named one", "re", tmpfs(teams("red")), false},
		{"no team and an empty item", "", tmpfs(teams("red,,")), false},
		{"what else is wrong with a foreign volume is not said", "red", tmpfs(teams("blue"), block), false},
		{"no such volume", "red", nil, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := &objects{volumes: map[string]*corev1.PersistentVolume{}}
			if c.volume != nil {
				r.volumes["pv"] = c.volume
			}
			req := request(spec("pv"))
			req.Principal.Team = c.team
			_, err := volume.Resolve(t.Context(), r, req)
			if c.allowed {
				require.NoError(t, err)
				return
			}
			require.Equal(t, mount.Faults{{Index: 0, Field: mount.FieldVolume, Reason: hidden}}, err)
		})
	}
}

func annotated(kv ...string) func(*corev1.PersistentVolume) {
	return func(pv *corev1.PersistentVolume) {
		if pv.Annotations == nil {
			pv.Annotations = map[string]string{}
		}
		for i := 0; i < len(kv); i += 2 {
			pv.Annotations[kv[i]] = kv[i+1]
		}
	}
}

func TestAKeyMayBeNamedBesideTeams(t *testing.T) {
	for _, c := range []struct {
		name    string
		volume  *corev1.PersistentVolume
		allowed bool
	}{
		{"the key", tmpfs(annotated(v1alpha1.AnnotationKeys, "k0, k1")), true},
		{"another key", tmpfs(annotated(v1alpha1.AnnotationKeys, "k2")), false},
		{"another key, but the team", tmpfs(annotated(v1alpha1.AnnotationKeys, "k2", v1alpha1.AnnotationTeams, "red")), true},
		{"the key, and another team", tmpfs(annotated(v1alpha1.AnnotationKeys, "k1", v1alpha1.AnnotationTeams, "blue")), true},
	} {
		_, err := volume.Resolve(t.Context(), &objects{volumes: map[string]*corev1.PersistentVolume{"pv": c.volume}}, request(spec("pv")))
		require.Equal(t, c.allowed, err == nil, c.name)
	}
}

func TestTheDefaultIsForVolumesThatNameNobody(t *testing.T) {
	bound := func(pv *corev1.PersistentVolume) { pv.Spec.ClaimRef = &corev1.ObjectReference{Name: "db"} }
	for _, c := range []struct {
		rule                             volume.Default
		unbound, bound, named, ofAnother bool
	}{
		{"", true, false, true, false},
		{volume.Unbound, true, false, true, false},
		{volume.Deny, false, false, true, false},
		{volume.Allow, true, true, true, false},
	} {
		may := func(pv *corev1.PersistentVolume) bool {
			req := request(spec("pv"))
			req.Default = c.rule
			_, err := volume.Resolve(t.Context(), &objects{volumes: map[string]*corev1.PersistentVolume{"pv": pv}}, req)
			return err == nil
		}
		require.Equal(t, c.unbound, may(tmpfs()), "%q, unbound", c.rule)
		require.Equal(t, c.bound, may(tmpfs(bound)), "%q, bound", c.rule)
		require.Equal(t, c.named, may(tmpfs(bound, annotated(v1alpha1.AnnotationTeams, "red"))), "%q, named", c.rule)
		require.Equal(t, c.ofAnother, may(tmpfs(annotated(v1alpha1.AnnotationTeams, "blue"))), "%q, of another team", c.rule)
	}
	var d volume.Default
	require.NoError(t, d.Set("deny"))
	require.Equal(t, volume.Deny, d)
	require.ErrorContains(t, d.Set("maybe"), "unbound, deny or allow")
}

func TestWhatAVolumesOwnerDemandsHoldsForEveryMount(t *testing.T) {
	resolve := func(s mount.Spec, kv ...string) (mount.Mount, error) {
		ms, err := volume.Resolve(t.Context(), &objects{volumes: map[string]*corev1.PersistentVolume{"pv": tmpfs(annotated(kv...))}}, request(s))
		return ms[0], err
	}
	m, err := resolve(mount.Spec{ID: "m", Volume: "pv", Target: "/data", SubPath: "a"}, v1alpha1.AnnotationSubPath, "tenants/${TEAM}/${KEY}")
	require.NoError(t, err)
	require.Equal(t, "tenants/red/k1", m.Prefix)
	require.Equal(t, "a", m.SubPath, "what was asked stays what was asked")
	require.True(t, m.Enforced && !m.OwnerReadOnly)
	m, err = resolve(spec("pv"), v1alpha1.AnnotationReadOnly, "true", v1alpha1.AnnotationSubPath, "${TEAM}")
	require.NoError(t, err)
	require.True(t, m.ReadOnly && m.Enforced && m.OwnerReadOnly)
	require.True(t, m.Is(spec("pv")), "a confined one that was written down before its owner had his say")
	m, err = resolve(spec("pv"), v1alpha1.AnnotationReadOnly, "false")
	require.NoError(t, err)
	require.False(t, m.ReadOnly || m.Enforced)
	_, err = resolve(spec("pv"), v1alpha1.AnnotationTargets, "/mnt, /data")
	require.NoError(t, err)
	_, err = resolve(mount.Spec{ID: "m", Volume: "pv", Target: "/data/x"}, v1alpha1.AnnotationTargets, "/data")
	require.NoError(t, err)
	_, err = resolve(mount.Spec{ID: "m", Volume: "pv", Target: "/database"}, v1alpha1.AnnotationTargets, "/mnt,/data")
	require.Equal(t, mount.Faults{{Field: mount.FieldTarget, Reason: `PersistentVolume "pv" may be mounted below /mnt, /data only`}}, err)

	for _, c := range [][2]string{
		{v1alpha1.AnnotationReadOnly, "yes"},
		{v1alpha1.AnnotationReadOnly, ""},
		{v1alpha1.AnnotationSubPath, ""},
		{v1alpha1.AnnotationSubPath, "/tenants"},
		{v1alpha1.AnnotationSubPath, "../${TEAM}"},
		{v1alpha1.AnnotationSubPath, "${SANDBOX_ID}"},
		{v1alpha1.AnnotationTargets, ""},
		{v1alpha1.AnnotationTargets, "data"},
		{v1alpha1.AnnotationTargets, "/data/../etc"},
	} {
		_, err := resolve(spec("pv"), c[0], c[1])
		require.ErrorContains(t, err, c[0], "%q", c)
	}
}

func TestATeamsNameCannotLeaveItsDirectory(t *testing.T) {
	for _, team := range []string{"..", "a/b", "../blue", ".", "", "${KEY}"} {
		req := request(spec("pv"))
		req.Principal.Team = team
		pv := tmpfs(annotated(v1alpha1.AnnotationSubPath, "tenants/${TEAM}"))
		_, err := volume.Resolve(t.Context(), &objects{volumes: map[string]*corev1.PersistentVolume{"pv": pv}}, req)
		require.Error(t, err, "%q", team)
	}
}

func TestRefusals(t *testing.T) {
	good := secret(map[string]string{"akId": "canary-id", "akSecret": "canary-secret"})
	cases := []struct {
		name   string
		volume *corev1.PersistentVolume
		secret *corev1.Secret
		edit   func(*volume.Request)
		field  mount.Field
		reason string
	}{
		{"another source", plain(corev1.PersistentVolumeSource{ISCSI: &corev1.ISCSIPersistentVolumeSource{}}), nil, nil, mount.FieldVolume, "has a source (iscsi) that sandboxes cannot mount"},
		{"no source", plain(corev1.PersistentVolumeSource{}), nil, nil, mount.FieldVolume, "has a source (none)"},
		{"a block volume", tmpfs(func(pv *corev1.PersistentVolume) { pv.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }), nil, nil, mount.FieldVolume, "volumeMode Block"},
		{"a volume that is going", tmpfs(func(pv *corev1.PersistentVolume) { pv.DeletionTimestamp = &metav1.Time{} }), nil, nil, mount.FieldVolume, "is being deleted"},
		{"an unknown driver", tmpfs(func(pv *corev1.PersistentVolume) { pv.Spec.CSI.Driver = "ebs" }), nil, nil, mount.FieldVolume, `needs driver "ebs", which is not installed here`},
		{"no volumeHandle", tmpfs(func(pv *corev1.PersistentVolume) { pv.Spec.CSI.VolumeHandle = "" }), nil, nil, mount.FieldVolume, "volumeHandle is empty"},
		{"a host path that is a socket", plain(corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/x", Type: ptr.To(corev1.HostPathSocket)}}), nil, nil, mount.FieldVolume, "of type Socket"},
		{"oss without its Secret", oss(), nil, nil, mount.FieldVolume, "the Secret that it names does not exist"},
		{"oss with a Secret for staging only", oss(func(pv *corev1.PersistentVolume) {
			pv.Spec.CSI.NodePublishSecretRef, pv.Spec.CSI.NodeStageSecretRef = nil, pv.Spec.CSI.NodePublishSecretRef
		}), good, nil, mount.FieldVolume, "name its Secret in nodePublishSecretRef"},
		{"a Secret of another namespace", oss(func(pv *corev1.PersistentVolume) { pv.Spec.CSI.NodePublishSecretRef.Namespace = "default" }), good, nil, mount.FieldVolume, "must be in namespace sandbox-system"},
		{"a template without csi", tmpfs(), nil, func(r *volume.Request) { r.Template.Runtimes = []string{"agent-runtime"} }, mount.FieldContainer, `runtimes do not include "csi"`},
		{"a container that is not the first", tmpfs(), nil, func(r *volume.Request) { r.Specs[0].Container = "side" }, mount.FieldContainer, "must name it in annotation sandgate.dev/mount-containers"},
		{"a container that is not there", tmpfs(), nil, func(r *volume.Request) { r.Specs[0].Container = "nope" }, mount.FieldContainer, "no container of that name"},
		{"a placeholder without its metadata", tmpfs(), nil, func(r *volume.Request) { r.Specs[0].SubPath = "u/${USER_ID}" }, mount.FieldSubPath, "USER_ID"},
		{"a placeholder that climbs", tmpfs(), nil, func(r *volume.Request) {
			r.Specs[0].SubPath, r.Metadata = "u/${USER_ID}", map[string]string{"USER_ID": ".."}
		}, mount.FieldSubPath, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := &objects{volumes: map[string]*corev1.PersistentVolume{"pv": c.volume}, secrets: map[string]*corev1.Secret{}}
			if c.secret != nil {
				r.secrets["sandbox-system/cred"] = c.secret
			}
			req := request(spec("pv"))
			if c.edit != nil {
				c.edit(&req)
			}
			_, err := volume.Resolve(t.Context(), r, req)
			var faults mount.Faults
			require.ErrorAs(t, err, &faults)
			require.Len(t, faults, 1, "%v", faults)
			require.Equal(t, c.field, faults[0].Field)
			require.Contains(t, faults[0].Reason, c.reason)
			require.NotContains(t, err.Error(), "canary")
			require.NotContains(t, err.Error(), "cred")
		})
	}
}

func TestAllFaultsAreNamedAtOnce(t *testing.T) {
	r := &objects{volumes: map[string]*corev1.PersistentVolume{"pv": tmpfs()}}
	bad := spec("missing")
	bad.Container = "nope"
	ms, err := volume.Resolve(t.Context(), r, request(spec("missing"), spec("pv"), bad))
	var faults mount.Faults
	require.ErrorAs(t, err, &faults)
	places := make([]string, len(faults))
	for i, f := range faults {
		places[i] = fmt.Sprintf("%d.%s", f.Index, f.Field)
	}
	require.Equal(t, []string{"0.volume", "2.container", "2.volume"}, places)
	require.Len(t, ms, 3)
	require.Equal(t, mount.DriverTmpfs, ms[1].Driver)
	require.Empty(t, ms[0].Driver)
	require.Equal(t, 2, r.reads, "a volume is read once, however often it is named")
}

func TestAReaderThatFailsIsUnavailable(t *testing.T) {
	cause := errors.New("etcd at 10.0.0.1 is down")
	for _, what := range []string{"pv", "sandbox-system/cred"} {
		t.Run(what, func(t *testing.T) {
			r := &objects{volumes: map[string]*corev1.PersistentVolume{"pv": oss()}, fail: map[string]error{what: cause}}
			_, err := volume.Resolve(t.Context(), r, request(spec("pv")))
			var e *warmpool.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, warmpool.Unavailable, e.Code)
			require.NotContains(t, e.Message, "10.0.0.1")
			require.ErrorIs(t, err, cause)
		})
	}
}

func TestTheMainContainerHasOneName(t *testing.T) {
	s := spec("pv")
	s.Container = "sandbox"
	got, err := volume.Resolve(t.Context(), &objects{volumes: map[string]*corev1.PersistentVolume{"pv": tmpfs()}}, request(s))
	require.NoError(t, err)
	require.Empty(t, got[0].Container)
}

func TestAVolumesHandleIsToldWhoeverMayMountIt(t *testing.T) {
	r := &objects{volumes: map[string]*corev1.PersistentVolume{"pv": tmpfs()}, fail: map[string]error{"away": errors.New("etcd is down")}}
	require.NotEmpty(t, volume.Handle(t.Context(), r, warmpool.Template{}, mount.Spec{Volume: "pv"}))
	require.Empty(t, volume.Handle(t.Context(), r, warmpool.Template{}, mount.Spec{Volume: "missing"}))
	require.Empty(t, volume.Handle(t.Context(), r, warmpool.Template{}, mount.Spec{Volume: "away"}))
}

func TestPlaceholdersAreFilledInOnceTheSandboxIsKnown(t *testing.T) {
	id := warmpool.NewID()
	ms := []mount.Mount{{Spec: mount.Spec{SubPath: "a/${SANDBOX_ID}/${ACTOR_ID}"}}, {Spec: mount.Spec{SubPath: "u/${USER_ID}"}}, {}}
	got, err := volume.Expand(ms, id, map[string]string{"USER_ID": "ann"})
	require.NoError(t, err)
	require.Equal(t, "a/"+string(id)+"/"+string(id), got[0].SubPath)
	require.Equal(t, "u/ann", got[1].SubPath)
	require.Empty(t, got[2].SubPath)
	require.Equal(t, "a/${SANDBOX_ID}/${ACTOR_ID}", ms[0].SubPath, "the mounts that came in are not touched")

	_, err = volume.Expand(ms, id, map[string]string{"USER_ID": "../x"})
	var faults mount.Faults
	require.ErrorAs(t, err, &faults)
	require.Equal(t, 1, faults[0].Index)
}

func TestAForeignDriverGetsEachSecretByItsRefAndItsFSType(t *testing.T) {
	const driver = "foreign.example"
	ref := func(name string) *corev1.SecretReference {
		return &corev1.SecretReference{Namespace: v1alpha1.SystemNamespace, Name: name}
	}
	foreign := func(edit func(*corev1.CSIPersistentVolumeSource)) *corev1.PersistentVolume {
		return tmpfs(func(pv *corev1.PersistentVolume) {
			pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: "Handle/verbatim", FSType: "ext4"}
			edit(pv.Spec.CSI)
		})
	}
	r := &objects{secrets: map[string]*corev1.Secret{
		"sandbox-system/p": secret(map[string]string{"k": "publish"}), "sandbox-system/s": secret(map[string]string{"k": "stage"}),
	}}
	req := request(spec("pv"))
	req.Drivers, req.Template.Runtimes = append(req.Drivers, driver), []string{"csi-foreign"}
	for name, c := range map[string]struct {
		edit           func(*corev1.CSIPersistentVolumeSource)
		publish, stage mount.Secret
		reason         string
	}{
		"none": {edit: func(*corev1.CSIPersistentVolumeSource) {}},
		"both": {
			edit: func(s *corev1.CSIPersistentVolumeSource) {
				s.NodePublishSecretRef, s.NodeStageSecretRef = ref("p"), ref("s")
			},
			publish: mount.Secret{"k": "publish"}, stage: mount.Secret{"k": "stage"},
		},
		"for staging only": {edit: func(s *corev1.CSIPersistentVolumeSource) { s.NodeStageSecretRef = ref("s") }, stage: mount.Secret{"k": "stage"}},
		"one that is missing": {
			edit:   func(s *corev1.CSIPersistentVolumeSource) { s.NodeStageSecretRef = ref("q") },
			reason: "the Secret that it names does not exist",
		},
		"one of another namespace": {
			edit: func(s *corev1.CSIPersistentVolumeSource) {
				s.NodeStageSecretRef = &corev1.SecretReference{Namespace: "default", Name: "s"}
			},
			reason: "nodeStageSecretRef must be in namespace sandbox-system",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.volumes = map[string]*corev1.PersistentVolume{"pv": foreign(c.edit)}
			got, err := volume.Resolve(t.Context(), r, req)
			if c.reason != "" {
				require.ErrorContains(t, err, c.reason)
				return
			}
			require.NoError(t, err)
			require.Equal(t, "Handle/verbatim", got[0].VolumeHandle)
			require.Equal(t, "ext4", got[0].FSType)
			require.Equal(t, c.publish, got[0].Secret)
			require.Equal(t, c.stage, got[0].StageSecret)
		})
	}
}
