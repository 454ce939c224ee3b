package csi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// volume is a Mount as calls tell it.
type volume struct {
	mount.Mount
	context map[string]string
}

// kubeletPrefix begins what a kubelet says of the pod, whatever the PersistentVolume says.
const kubeletPrefix = "csi.storage.k8s.io/"

func (d *Driver) volume(m mount.Mount) volume {
	about := map[string]string{}
	maps.Copy(about, m.Attributes)
	for k, v := range d.config.Context {
		if _, said := about[k]; !said || strings.HasPrefix(k, kubeletPrefix) {
			about[k] = v
		}
	}
	return volume{m, about}
}

// capability is how the volume is to be had. A driver that tells one writer from several gets the modes that do.
func (v volume) capability(can abilities) (*csi.VolumeCapability, error) {
	mode := csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	switch v.AccessMode {
	case mount.ReadOnlyMany:
		mode = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	case mount.ReadWriteOncePod:
		if !can.writers {
			return nil, fmt.Errorf("%w: driver %s does not know the access mode ReadWriteOncePod", mount.ErrInvalid, v.Driver)
		}
		mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	case mount.ReadWriteOnce:
		mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
		if can.writers {
			mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
		}
	}
	how := &csi.VolumeCapability_MountVolume{FsType: v.FSType, MountFlags: v.Options}
	if can.group && v.Owner.GID != 0 {
		how.VolumeMountGroup = fmt.Sprint(v.Owner.GID)
	}
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: how}, AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
	}, nil
}

// readOnly is what publish is told: by whoever asked or by the volume's own word.
func (v volume) readOnly() bool {
	return v.ReadOnly || v.AccessMode == mount.ReadOnlyMany || slices.Contains(v.Options, "ro")
}

// print tells two volumes of one handle apart that are not one.
func (v volume) print(c *csi.VolumeCapability) (string, error) {
	b, err := json.Marshal([]any{v.context, c.GetMount().GetFsType(), c.GetMount().GetMountFlags(), c.GetMount().GetVolumeMountGroup(), c.GetAccessMode().GetMode()})
	if err != nil {
		return "", fmt.Errorf("fingerprint: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16]), nil
}

// bring stages and publishes v at a place. Both may have been done before: each call is the same again then.
func (d *Driver) bring(ctx context.Context, v volume, at string) error {
	can, err := d.meet(ctx)
	if err != nil {
		return err
	}
	capability, err := v.capability(can)
	if err != nil {
		return err
	}
	r := record{Handle: v.VolumeHandle, Staged: can.stages}
	if r.Print, err = v.print(capability); err != nil {
		return err
	}
	if err := d.alike(at, r); err != nil {
		return err
	}
	was, _, err := d.book.read(at)
	if err != nil {
		return err
	}
	r.Staged, r.Published = r.Staged || was.Staged, was.Published // in an earlier try
	if err := d.book.begin(at, r); err != nil {
		return err
	}
	d.config.Hide.Add(v.Secret)
	d.config.Hide.Add(v.StageSecret)
	node, stage := csi.NewNodeClient(d.conn), ""
	if can.stages {
		stage = d.book.stage(v.VolumeHandle)
		_, err := call(ctx, d, "NodeStageVolume", node.NodeStageVolume, &csi.NodeStageVolumeRequest{
			VolumeId: v.VolumeHandle, StagingTargetPath: stage, VolumeCapability: capability, VolumeContext: v.context, Secrets: v.StageSecret,
		})
		if err != nil {
			return err
		}
	}
	r.Published = true
	if err := d.book.write(at, r); err != nil {
		return err
	}
	_, err = call(ctx, d, "NodePublishVolume", node.NodePublishVolume, &csi.NodePublishVolumeRequest{
		VolumeId: v.VolumeHandle, StagingTargetPath: stage, TargetPath: d.book.target(at), VolumeCapability: capability,
		Readonly: v.readOnly(), VolumeContext: v.context, Secrets: v.Secret,
	})
	return err
}

// alike refuses a volume whose handle is staged in another way: it would be had in that way.
func (d *Driver) alike(at string, r record) error {
	records, err := d.book.all()
	for other, have := range records {
		if other != at && have.Handle == r.Handle && have.Staged && have.Print != r.Print {
			return fmt.Errorf("%w: another volume with this volumeHandle and other attributes or options is mounted in the sandbox; unmount it first", mount.ErrInvalid)
		}
	}
	return err
}

// take has the plugin unpublish what is at a place, and unstage it when it was the last of its volume. Each may have been done before.
func (d *Driver) take(ctx context.Context, at string, r record) error {
	node := csi.NewNodeClient(d.conn)
	if target := d.book.target(at); r.Published {
		err := d.patient(ctx, func() error {
			_, err := call(ctx, d, "NodeUnpublishVolume", node.NodeUnpublishVolume, &csi.NodeUnpublishVolumeRequest{VolumeId: r.Handle, TargetPath: target})
			return err
		})
		if err := d.let(target, err); err != nil {
			return err
		}
	}
	last, err := d.book.last(at, r)
	if err != nil {
		return err
	}
	if stage := d.book.stage(r.Handle); r.Staged && last {
		err := d.patient(ctx, func() error {
			_, err := call(ctx, d, "NodeUnstageVolume", node.NodeUnstageVolume, &csi.NodeUnstageVolumeRequest{VolumeId: r.Handle, StagingTargetPath: stage})
			return err
		})
		if err := d.let(stage, err); err != nil {
			return err
		}
	}
	return d.book.remove(at)
}

// patient makes a call again while the plugin is not there, or says that it is busy.
func (d *Driver) patient(ctx context.Context, f func() error) error {
	until := time.Now().Add(d.config.RetryFor)
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		err := f()
		if err == nil || !again(err) || time.Now().Add(wait).After(until) || pause(ctx, wait) != nil {
			return err
		}
	}
}

// let removes dir after the plugin has answered that it let go of it. A fault about a directory that is not there, or a volume that the
// plugin does not know any more, is none: it has done so before.
func (d *Driver) let(dir string, err error) error {
	var f *failure
	if !errors.As(err, &f) {
		return errors.Join(err, d.book.clear(dir))
	}
	said := status.Convert(f.err)
	var st unix.Statx_t
	missing := unix.Statx(unix.AT_FDCWD, dir, quiet, unix.STATX_TYPE, &st)
	switch {
	case said.Code() == codes.NotFound:
	case !again(err) && said.Code() != codes.DeadlineExceeded && said.Code() != codes.Canceled && errors.Is(missing, fs.ErrNotExist):
	default:
		return fmt.Errorf("%s: %s: %s", f.call, said.Code(), d.config.Hide.Text(said.Message()))
	}
	return d.book.clear(dir)
}
