package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"strconv"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// What a Mount says and CSI has no field for rides in the volume context, under these keys. Others are the volume's attributes.
const (
	keyID        = mount.ContextPrefix + "mount-id"
	keyVolume    = mount.ContextPrefix + "volume"
	keyDriver    = mount.ContextPrefix + "driver"
	keyContainer = mount.ContextPrefix + "container"
	keySubPath   = mount.ContextPrefix + "sub-path"
	keyOwner     = mount.ContextPrefix + "owner"       // uid:gid
	keyMode      = mount.ContextPrefix + "access-mode" // by its Kubernetes name
	keyEnforced  = mount.ContextPrefix + "enforced"    // there or not
	keyNonEmpty  = mount.ContextPrefix + "allow-non-empty"
)

// containerKey names the container that a call is about for which CSI has no field: it goes with the call, not in its request.
const containerKey = "x-sandgate-container"

// InContainer is a context whose calls are about the named container; "" is the main one. Without it they are about all.
func InContainer(ctx context.Context, container string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, containerKey, container)
}

func inContainer(ctx context.Context) (string, bool) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get(containerKey)
	if len(values) == 0 {
		return "", false
	}
	return values[0], true
}

// PublishRequest is m as a CSI request.
func PublishRequest(m mount.Mount) *csi.NodePublishVolumeRequest {
	about := map[string]string{
		keyID: m.ID, keyVolume: m.Volume, keyDriver: m.Driver, keyContainer: m.Container, keySubPath: path.Join(m.Prefix, m.SubPath),
		keyOwner: fmt.Sprintf("%d:%d", m.Owner.UID, m.Owner.GID), keyMode: string(m.AccessMode),
	}
	if m.Enforced {
		about[keyEnforced] = "true"
	}
	if m.AllowNonEmpty {
		about[keyNonEmpty] = "true"
	}
	maps.DeleteFunc(about, func(_, v string) bool { return v == "" })
	for k, v := range m.Attributes {
		if !strings.HasPrefix(k, mount.ContextPrefix) { // else a volume could say for which driver it is, or leave its prefix
			about[k] = v
		}
	}
	mode := modes[m.AccessMode]
	if mode == csi.VolumeCapability_AccessMode_UNKNOWN {
		mode = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	}
	return &csi.NodePublishVolumeRequest{
		VolumeId: m.VolumeHandle, TargetPath: m.Target, Readonly: m.ReadOnly, VolumeContext: about, Secrets: secrets(m),
		VolumeCapability: &csi.VolumeCapability{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: m.FSType, MountFlags: m.Options}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
		},
	}
}

// stagePrefix marks the keys of the stage secret, for which this request has no field; no key of a Secret has a slash.
const stagePrefix = mount.ContextPrefix + "stage/"

func secrets(m mount.Mount) map[string]string {
	if len(m.StageSecret) == 0 {
		return m.Secret
	}
	both := maps.Clone(map[string]string(m.Secret))
	if both == nil {
		both = map[string]string{}
	}
	for k, v := range m.StageSecret {
		both[stagePrefix+k] = v
	}
	return both
}

// apart takes secrets apart again.
func apart(both map[string]string) (publish, stage mount.Secret) {
	for k, v := range both {
		into, name := &publish, k
		if rest, ok := strings.CutPrefix(k, stagePrefix); ok {
			into, name = &stage, rest
		}
		if *into == nil {
			*into = mount.Secret{}
		}
		(*into)[name] = v
	}
	return publish, stage
}

var modes = map[mount.AccessMode]csi.VolumeCapability_AccessMode_Mode{
	mount.ReadWriteOnce:    csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
	mount.ReadOnlyMany:     csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY,
	mount.ReadWriteMany:    csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER,
	mount.ReadWriteOncePod: csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
}

// accessMode is the Kubernetes name of a CSI mode; a caller that is ours has said it himself.
func accessMode(mode csi.VolumeCapability_AccessMode_Mode) mount.AccessMode {
	switch mode {
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY, csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:
		return mount.ReadOnlyMany
	case csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER, csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER:
		return mount.ReadWriteMany
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER:
		return mount.ReadWriteOncePod
	}
	return mount.ReadWriteOnce
}

// fromRequest is a CSI request as a Mount. What the request does not name is taken from driver, the plugin's own name.
func fromRequest(r *csi.NodePublishVolumeRequest, driver string) (mount.Mount, error) {
	switch c := r.GetVolumeCapability(); {
	case r.GetVolumeId() == "":
		return mount.Mount{}, invalidf("volume_id is required")
	case r.GetTargetPath() == "":
		return mount.Mount{}, invalidf("target_path is required")
	case c == nil:
		return mount.Mount{}, invalidf("volume_capability is required")
	case c.GetBlock() != nil:
		return mount.Mount{}, invalidf("volume_capability: block volumes are not supported, ask for a mount")
	}
	about := r.GetVolumeContext()
	m := mount.Mount{
		Spec: mount.Spec{
			ID: about[keyID], Volume: about[keyVolume], SubPath: about[keySubPath], Target: r.GetTargetPath(),
			ReadOnly: r.GetReadonly(), Container: about[keyContainer], AllowNonEmpty: about[keyNonEmpty] != "",
		},
		Driver: about[keyDriver], VolumeHandle: r.GetVolumeId(), Attributes: map[string]string{},
		Options: split(r.GetVolumeCapability().GetMount().GetMountFlags()), AccessMode: mount.AccessMode(about[keyMode]),
		Enforced: about[keyEnforced] != "", FSType: r.GetVolumeCapability().GetMount().GetFsType(),
	}
	m.Secret, m.StageSecret = apart(r.GetSecrets())
	for k, v := range about {
		if !strings.HasPrefix(k, mount.ContextPrefix) {
			m.Attributes[k] = v
		}
	}
	if m.Volume == "" {
		m.Volume = "volume" // a foreign caller knows only the handle
	}
	if m.Driver == "" {
		m.Driver = driver
	}
	if m.Driver == mount.DriverEphemeral { // what is no number is no size, which Parse says
		m.Ephemeral.Size, _ = strconv.ParseInt(m.Attributes["size"], 10, 64)
		m.Ephemeral.Inodes, _ = strconv.ParseInt(m.Attributes["inodes"], 10, 64)
	}
	if m.AccessMode == "" {
		m.AccessMode = accessMode(r.GetVolumeCapability().GetAccessMode().GetMode())
	}
	var err error
	m.Owner, err = owner(about[keyOwner])
	return m, err
}

// split takes mount flags apart: one flag may hold a list.
func split(flags []string) (out []string) {
	for _, f := range flags {
		for _, o := range strings.Split(f, ",") {
			if o = strings.TrimSpace(o); o != "" {
				out = append(out, o)
			}
		}
	}
	return out
}

func owner(text string) (mount.Owner, error) {
	if text == "" {
		return mount.Owner{}, nil
	}
	u, g, _ := strings.Cut(text, ":")
	uid, errU := strconv.ParseUint(u, 10, 32)
	gid, errG := strconv.ParseUint(g, 10, 32)
	if errU != nil || errG != nil {
		return mount.Owner{}, invalidf("volume_context: %s must be uid:gid", keyOwner)
	}
	return mount.Owner{UID: uint32(uid), GID: uint32(gid)}, nil
}

func invalidf(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

// kinds are the errors that a caller may read, and their code on the wire.
var kinds = []struct {
	err  error
	code codes.Code
}{
	{ErrDataLoss, codes.DataLoss},
	{ErrConflict, codes.AlreadyExists},
	{ErrInUse, codes.Aborted},
	{mount.ErrInvalid, codes.InvalidArgument},
	{mount.ErrDenied, codes.PermissionDenied},
	{mount.ErrNotFound, codes.NotFound},
	{mount.ErrUnavailable, codes.Unavailable},
}

// toStatus is err on the wire. What has no kind is internal: its text stays here.
func toStatus(err error) error {
	var faults mount.Faults
	switch _, isStatus := status.FromError(err); {
	case err == nil || isStatus:
		return err
	case errors.As(err, &faults):
		return status.Error(codes.InvalidArgument, err.Error())
	}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return status.Error(k.code, err.Error())
		}
	}
	return status.Error(codes.Internal, "internal error; the agent's log says more")
}
