package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/utils/ptr"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/start"
	"github.com/sandgate-dev/sandgate/warmpool/template"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

// volumesOf are a pool's volumes as this machine mounts them: there is no kubelet that does it first.
func volumesOf(list []v1alpha1.PoolVolume) (out []warmpool.PoolVolume) {
	for _, v := range list {
		m, _ := template.Volume(v)
		p := warmpool.PoolVolume{Mount: m, AtClaim: v.MountAt == v1alpha1.MountAtClaim}
		p.VolumeHandle, p.AccessMode = "pool/"+v.Name, mount.ReadWriteMany
		switch {
		case v.HostPath != nil:
			p.Driver, p.Attributes = mount.DriverHostPath, map[string]string{"path": v.HostPath.Path, "type": string(ptr.Deref(v.HostPath.Type, ""))}
		case v.NFS != nil:
			p.Driver, p.Attributes = mount.DriverNAS, map[string]string{"server": v.NFS.Server, "path": v.NFS.Path}
		case v.PersistentVolumeClaim != nil:
			p.Claim = v.PersistentVolumeClaim.ClaimName
		}
		out = append(out, p)
		further, _ := template.Further(v)
		for _, m := range further {
			out = append(out, warmpool.PoolVolume{Mount: m, AtClaim: p.AtClaim})
		}
	}
	return out
}

// atClaim are the mounts that come with a claim.
func atClaim(list []v1alpha1.PoolVolume) (out []mount.Spec) {
	for _, m := range template.Asked(list, true) {
		out = append(out, template.Spec(m))
	}
	return out
}

// furnish mounts what a sandbox of stock is to have already when it is claimed.
func (b *Backend) furnish(ctx context.Context, s *sandbox) error {
	var specs []mount.Spec
	for _, m := range template.Asked(s.Volumes, false) {
		specs = append(specs, template.Spec(m))
	}
	if len(specs) == 0 {
		return nil
	}
	if b.cfg.Reader == nil {
		return errors.New("volumes of a pool cannot be looked up here")
	}
	b.mu.Lock()
	t := b.madeFrom(s.record)
	b.mu.Unlock()
	ms, err := volume.Resolve(ctx, b.cfg.Reader, volume.Request{
		Template: t, Specs: specs, Drivers: slices.Sorted(maps.Keys(b.drivers)), Default: b.cfg.Default, Node: &b.cfg.Node,
	})
	if err == nil {
		ms, err = volume.Expand(ms, s.ID, nil)
	}
	if err != nil {
		return fmt.Errorf("volumes of the pool: %w", err)
	}
	s.Mounted = map[string]time.Time{}
	for _, m := range ms {
		if err := s.box.Publish(ctx, m); err != nil {
			return start.Volume(m, err)
		}
		s.Mounts, s.Mounted[m.ID] = append(s.Mounts, m.Spec), b.cfg.Clock.Now()
		s.gave(m)
	}
	return nil
}
