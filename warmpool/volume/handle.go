package volume

import (
	"context"
	"slices"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// Handle is the handle of a volume that the template's sandboxes may have, empty when it cannot be told: for a mount that was made before,
// whoever may look at the volume by now.
func Handle(ctx context.Context, r Reader, t warmpool.Template, s mount.Spec) string {
	if s.IsEphemeral() {
		return s.Resolve(t.Owner).VolumeHandle
	}
	name := s.Volume
	if s.Kind == mount.KindPool {
		i := slices.IndexFunc(t.Volumes, func(v warmpool.PoolVolume) bool { return v.Kind == s.Kind && v.Volume == name })
		switch {
		case i < 0:
			return ""
		case t.Volumes[i].Claim == "":
			return t.Volumes[i].VolumeHandle
		}
		s.Kind, name = mount.KindClaim, t.Volumes[i].Claim
	}
	if s.Kind == mount.KindClaim {
		pvc, err := r.PersistentVolumeClaim(ctx, t.Namespace, name)
		if err != nil || pvc == nil {
			return ""
		}
		name = pvc.Spec.VolumeName
	}
	pv, err := r.PersistentVolume(ctx, name)
	if err != nil || pv == nil {
		return ""
	}
	return Storage(pv).VolumeHandle
}
