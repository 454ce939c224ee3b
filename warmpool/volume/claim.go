package volume

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/sandgate-dev/sandgate/warmpool"
)

const noSuchClaim = "no PersistentVolumeClaim of that name that you may mount"

// claim is the volume of a PersistentVolumeClaim in the template's namespace. Its annotations say who may mount it, else those of its
// volume do: a bound volume that names nobody is its claim's alone, unless everybody may mount everything.
func (res *resolution) claim(ctx context.Context, name string) (source, error) {
	pvc, pv, reason, err := res.bound(ctx, name)
	switch {
	case err != nil:
		return source{}, err
	case pvc == nil:
		return source{reasons: []string{noSuchClaim}}, nil
	}
	in, said := named(pvc, res.req.Principal)
	switch {
	case said && !in, !said && pv == nil && res.req.Default != Allow, !said && pv != nil && !res.req.Default.allowed(pv, res.req.Principal):
		return source{reasons: []string{noSuchClaim}}, nil
	case reason != "":
		return source{reasons: []string{reason}}, nil
	}
	src, err := res.take(ctx, pv)
	return restricted(src, "PersistentVolumeClaim", pvc, res.req.Principal), err
}

// bound reads a claim and the volume that it is bound to; without one, reason says why. No claim is no error.
func (res *resolution) bound(ctx context.Context, name string) (_ *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume, reason string, _ error) {
	ns := res.req.Template.Namespace
	pvc, err := res.reader.PersistentVolumeClaim(ctx, ns, name)
	if warmpool.CodeOf(err) == warmpool.NotFound {
		return nil, nil, "", nil
	}
	if err != nil || pvc == nil {
		return nil, nil, "", fmt.Errorf("read PersistentVolumeClaim %s/%s: %w", ns, name, err)
	}
	say := func(what string) string { return fmt.Sprintf("PersistentVolumeClaim %q %s", name, what) }
	if pvc.Spec.VolumeName == "" || pvc.Status.Phase == corev1.ClaimPending {
		return pvc, nil, say("is not bound to a volume yet; try again when it is"), nil
	}
	pv, err := res.reader.PersistentVolume(ctx, pvc.Spec.VolumeName)
	if warmpool.CodeOf(err) == warmpool.NotFound {
		return pvc, nil, say("has lost its volume"), nil
	}
	if err != nil || pv == nil {
		return nil, nil, "", fmt.Errorf("read PersistentVolume %s: %w", pvc.Spec.VolumeName, err)
	}
	ref := pv.Spec.ClaimRef
	switch {
	case ref == nil, ref.Namespace != ns, ref.Name != name, ref.UID != "" && pvc.UID != "" && ref.UID != pvc.UID:
		return pvc, nil, say("is not bound to a volume: the one that it names is not its own"), nil
	case pvc.DeletionTimestamp != nil:
		return pvc, pv, say("is being deleted"), nil
	}
	return pvc, pv, "", nil
}

// pool is one of the template's own volumes: whoever has written the template answers for it.
func (res *resolution) pool(ctx context.Context, name string) (source, error) {
	volumes := res.req.Template.Volumes
	i := slices.IndexFunc(volumes, func(v warmpool.PoolVolume) bool { return v.Volume == name && v.ID == name })
	if i < 0 {
		return source{reasons: []string{fmt.Sprintf("the sandbox's pool has no volume %q", name)}}, nil
	}
	v := volumes[i]
	if v.Claim == "" {
		return source{Mount: v.Mount}, nil
	}
	pvc, pv, reason, err := res.bound(ctx, v.Claim)
	switch {
	case err != nil:
		return source{}, err
	case pvc == nil:
		return source{reasons: []string{fmt.Sprintf("PersistentVolumeClaim %q of the pool does not exist", v.Claim)}}, nil
	case reason != "":
		return source{reasons: []string{reason}}, nil
	}
	src, err := res.take(ctx, pv)
	src.ReadOnly, src.Enforced = src.ReadOnly || v.OwnerReadOnly, v.Enforced
	return src, err
}
