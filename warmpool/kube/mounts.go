package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/start"
)

// Publish mounts a volume into a running sandbox. It is asked for in the Sandbox first, by one write, so that the controller repairs it
// from then on; then it is published from here by the same call, which may be repeated.
func (b *Backend) Publish(ctx context.Context, id warmpool.ID, m mount.Mount) (warmpool.MountStatus, bool, error) {
	sb, err := b.running(ctx, id)
	if err != nil {
		return warmpool.MountStatus{}, false, err
	}
	b.visits.enter(sb.UID)
	defer b.depart(sb)
	at := metav1.NewMicroTime(b.cfg.Clock.Now().Truncate(time.Microsecond)) // as it is read back
	sb, entry, made, err := b.ask(ctx, sb, m, at)
	if err != nil {
		if warmpool.CodeOf(err) == warmpool.Unavailable { // the write may have come through
			b.work.Go(func() { b.takeBack(ctx, sb, m, at) })
		}
		return warmpool.MountStatus{}, false, err
	}
	observed, done := b.cfg.Observer.Phase(ctx, phaseMount, m.Driver)
	err = start.Mounted(m, published(b.cfg.Fitter.Publish(observed, sb, m)))
	done(err)
	now := sb
	if err == nil {
		now, err = b.stillAsked(ctx, sb, entry)
	}
	if err != nil {
		b.takeBack(ctx, sb, m, at)
		return warmpool.MountStatus{}, false, err
	}
	return b.noted(now, m, entry), made, nil
}

// running is the Sandbox of a sandbox that was handed out and works.
func (b *Backend) running(ctx context.Context, id warmpool.ID) (*v1alpha1.Sandbox, error) {
	sb, err := b.find(ctx, id)
	if err != nil {
		return nil, err
	}
	if b.state(sb) != warmpool.Running {
		return nil, notFound(id)
	}
	return sb, nil
}

// ask writes the mount into the Sandbox, and says as which entry it is there, and whether it was not before.
func (b *Backend) ask(
	ctx context.Context, sb *v1alpha1.Sandbox, m mount.Mount, at metav1.MicroTime,
) (_ *v1alpha1.Sandbox, entry v1alpha1.Mount, made bool, err error) {
	if slices.ContainsFunc(specs(sb), m.Is) { // or was: another replica may have taken it out
		fresh, err := b.reread(ctx, sb)
		if err != nil {
			return sb, entry, false, err
		}
		sb = fresh
	}
	sb, err = b.changeMounts(ctx, sb, func(sb *v1alpha1.Sandbox) ([]v1alpha1.Mount, error) {
		there := specs(sb)
		i := slices.IndexFunc(there, m.Is)
		if made = i < 0; !made {
			entry = sb.Spec.Mounts[i]
			return sb.Spec.Mounts, nil
		}
		entry = requested(intent([]mount.Spec{m.Spec}), at)[0]
		return append(slices.Clone(sb.Spec.Mounts), entry), start.Beside(there, m.Spec)
	})
	return sb, entry, made, err
}

// changeMounts writes what change makes of a Sandbox's mounts, and nothing when that is as much as before. Whoever comes in between is
// read first.
func (b *Backend) changeMounts(
	ctx context.Context, sb *v1alpha1.Sandbox, change func(*v1alpha1.Sandbox) ([]v1alpha1.Mount, error),
) (*v1alpha1.Sandbox, error) {
	for range tries {
		next, err := change(sb)
		if err != nil || len(next) == len(sb.Spec.Mounts) {
			return sb, err
		}
		changed, err := b.patchMounts(ctx, sb, next)
		if !errors.Is(err, errTaken) {
			return changed, err
		}
		fresh, err := b.reread(ctx, sb)
		if err != nil {
			return sb, err
		}
		sb = fresh
	}
	return sb, beset()
}

// beset is the error of a change that others always got in the way of.
func beset() error {
	return &warmpool.Error{Code: warmpool.Unavailable, Message: "the sandbox is being changed by others; try again", RetryAfter: time.Second}
}

// patchMounts writes a Sandbox's mounts. errTaken says that the object is not as it was.
func (b *Backend) patchMounts(ctx context.Context, sb *v1alpha1.Sandbox, mounts []v1alpha1.Mount) (*v1alpha1.Sandbox, error) {
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": sb.UID, "resourceVersion": sb.ResourceVersion}, "spec": map[string]any{"mounts": mounts},
	})
	if err != nil {
		return sb, err
	}
	changed := &v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: sb.Namespace, Name: sb.Name}}
	err = b.cfg.Client.Patch(ctx, changed, client.RawPatch(types.MergePatchType, body))
	switch {
	case apierrors.IsNotFound(err):
		return sb, notFound(idOf(sb))
	case apierrors.IsConflict(err):
		return sb, errTaken
	case err != nil:
		return sb, unwritable(err)
	}
	changed.ManagedFields = nil
	b.shelf.put(changed, false)
	if changed.DeletionTimestamp != nil {
		return sb, notFound(idOf(sb))
	}
	return changed, nil
}

// reread is the Sandbox as the API server has it, which this replica knows from then on. NotFound for one that has ended.
func (b *Backend) reread(ctx context.Context, sb *v1alpha1.Sandbox) (*v1alpha1.Sandbox, error) {
	fresh, err := b.readByName(ctx, sb)
	switch {
	case err != nil:
		return nil, unwritable(err)
	case fresh == nil, ended(fresh, b.cfg.Clock.Now()):
		return nil, notFound(idOf(sb))
	}
	b.shelf.put(fresh, false)
	return fresh, nil
}

// stillAsked makes sure of a mount that was made. Whoever takes out what is still being made finds nothing to unmount, and a mount that
// another request has asked for is taken back when that request fails.
func (b *Backend) stillAsked(ctx context.Context, sb *v1alpha1.Sandbox, entry v1alpha1.Mount) (*v1alpha1.Sandbox, error) {
	fresh, err := b.reread(ctx, sb)
	if err != nil || slices.ContainsFunc(fresh.Spec.Mounts, func(x v1alpha1.Mount) bool { return same(x, entry) }) {
		return fresh, err
	}
	return nil, &warmpool.Error{Code: warmpool.Unavailable, Message: "the mount was taken away while it was made; try again", RetryAfter: time.Second}
}

// same says whether two entries are one: not another one, or a later one, of that name.
func same(a, b v1alpha1.Mount) bool {
	a.AllowNonEmpty = b.AllowNonEmpty // no part of what a mount is
	return equality.Semantic.DeepEqual(a, b)
}

// takeBack undoes what ask has written, if it has, and whatever has come of it since: the controller may have helped.
func (b *Backend) takeBack(ctx context.Context, sb *v1alpha1.Sandbox, m mount.Mount, at metav1.MicroTime) {
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), undo)
	defer cancel()
	fresh, err := b.readByName(after, sb)
	if err == nil && fresh == nil {
		return
	}
	if err == nil {
		b.shelf.put(fresh, false)
		_, err = b.withoutMount(after, fresh, func(x v1alpha1.Mount) bool {
			return x.ID == m.ID && x.RequestedAt != nil && x.RequestedAt.Equal(&at)
		})
	}
	if err != nil && warmpool.CodeOf(err) != warmpool.NotFound {
		b.cfg.Log.Error("a mount that failed is still asked for in its Sandbox; the controller tries it", "sandbox", idOf(sb), "mount", m.ID, "error", err)
		return
	}
	b.tidyMount(after, sb, m)
}

// withoutMount takes mounts out of what is asked for.
func (b *Backend) withoutMount(ctx context.Context, sb *v1alpha1.Sandbox, which func(v1alpha1.Mount) bool) (*v1alpha1.Sandbox, error) {
	return b.changeMounts(ctx, sb, func(sb *v1alpha1.Sandbox) ([]v1alpha1.Mount, error) {
		return slices.DeleteFunc(slices.Clone(sb.Spec.Mounts), which), nil
	})
}

// tidyMount makes sure that a mount which nobody asks for is not there, as far as this replica has read. Where somebody asks for the volume
// in its place by now, it is his.
func (b *Backend) tidyMount(ctx context.Context, sb *v1alpha1.Sandbox, m mount.Mount) {
	if now, _ := b.shelf.find(idOf(sb)); now != nil {
		if slices.ContainsFunc(specs(now), func(x mount.Spec) bool {
			return x.Target == m.Target && x.Container == m.Container && sameVolume(x, m.Spec)
		}) {
			return
		}
	}
	err := start.Unmounted(m.Spec, published(b.cfg.Fitter.Unpublish(ctx, sb, v1alpha1.MountStatus{VolumeHandle: m.VolumeHandle, Path: m.Target, Container: m.Container})))
	if err != nil {
		b.cfg.Log.Warn("a mount that failed may have left something", "sandbox", idOf(sb), "mount", m.ID, "error", err)
	}
}

// noted is the status of a mount that was seen a moment ago, whatever the controller has told of it so far.
func (b *Backend) noted(sb *v1alpha1.Sandbox, m mount.Mount, entry v1alpha1.Mount) warmpool.MountStatus {
	now := b.cfg.Clock.Now()
	st := warmpool.MountStatus{Spec: m.Spec, Phase: warmpool.MountReady, Verdict: warmpool.MountLive, MountedAt: now}
	for _, known := range b.view(sb).Mounts {
		if known.ID == m.ID && known.Phase == warmpool.MountReady && !known.MountedAt.IsZero() {
			return known
		}
	}
	b.shelf.note(sb.UID, entry, now)
	return st
}

// Unpublish takes a mount from a running sandbox: from the container first, since one in use is to stay, then from what is asked for. What
// is taken out is what was unmounted: where another mount bears the ID by then, that one is unmounted too.
func (b *Backend) Unpublish(ctx context.Context, id warmpool.ID, m mount.Mount, force bool) error {
	sb, err := b.running(ctx, id)
	if err != nil {
		return err
	}
	b.visits.enter(sb.UID)
	defer b.depart(sb)
	if sb, err = b.having(ctx, sb, m); err != nil {
		return err
	}
	var lost error
	for range tries {
		i := slices.IndexFunc(sb.Spec.Mounts, func(x v1alpha1.Mount) bool { return x.ID == m.ID })
		if i < 0 {
			return lost
		}
		entry, spec := sb.Spec.Mounts[i], specs(sb)[i]
		handles := handlesOf(sb, spec, m)
		if len(handles) == 0 {
			err = neverWas(told(sb, spec), entry, force)
		} else {
			err = b.detach(ctx, sb, spec, handles, force)
		}
		if err != nil && !errors.Is(err, warmpool.ErrDataLoss) {
			return err
		}
		lost = errors.Join(lost, err)
		if sb, err = b.withoutMount(ctx, sb, func(x v1alpha1.Mount) bool { return same(x, entry) }); err != nil { // and the controller mounts it again
			return err
		}
		b.shelf.unnote(sb.UID, m.ID)
		for _, handle := range handles { // the controller may have repaired it in between
			b.tidyMount(ctx, sb, mount.Mount{Spec: spec, VolumeHandle: handle})
		}
	}
	return beset()
}

// detach unmounts a volume from the container, by each of the handles that it may be known by.
func (b *Backend) detach(ctx context.Context, sb *v1alpha1.Sandbox, spec mount.Spec, handles []string, force bool) (lost error) {
	unpublish := b.cfg.Fitter.UnpublishIdle
	if force {
		unpublish = b.cfg.Fitter.Unpublish
	}
	for _, handle := range handles {
		err := start.Unmounted(spec, published(unpublish(ctx, sb, v1alpha1.MountStatus{VolumeHandle: handle, Path: spec.Target, Container: spec.Container})))
		if err != nil && !errors.Is(err, warmpool.ErrDataLoss) {
			return err
		}
		lost = errors.Join(lost, err)
	}
	return lost
}

// neverWas says whether a mount without a handle may go: one of a volume that was never found has never been mounted. One that a request
// has asked for was found then, and only force gives it up.
func neverWas(known *v1alpha1.MountStatus, entry v1alpha1.Mount, force bool) error {
	where := fmt.Sprintf("volume '%s' at %s", entry.Volume, entry.Path)
	switch {
	case known == nil:
		return &warmpool.Error{Code: warmpool.Unavailable, Message: where + " has not been looked at yet; try again", RetryAfter: time.Second}
	case entry.RequestedAt == nil:
		return nil
	case force:
		return fmt.Errorf("%s was not found any more: %w", where, warmpool.ErrDataLoss)
	}
	return &warmpool.Error{Code: warmpool.Unavailable, RetryAfter: time.Second, Message: where +
		" was not unmounted: there is no such volume any more; try again when there is, or unmount with force and give it up"}
}

// having is the Sandbox with a mount, which another replica may have asked for a moment ago, and with what is told of its volume.
func (b *Backend) having(ctx context.Context, sb *v1alpha1.Sandbox, m mount.Mount) (*v1alpha1.Sandbox, error) {
	of := func(sb *v1alpha1.Sandbox) int {
		return slices.IndexFunc(sb.Spec.Mounts, func(x v1alpha1.Mount) bool { return x.ID == m.ID })
	}
	if i := of(sb); i >= 0 && len(handlesOf(sb, specs(sb)[i], m)) > 0 {
		return sb, nil
	}
	fresh, err := b.reread(ctx, sb)
	if err == nil && of(fresh) < 0 {
		err = warmpool.Errorf(warmpool.NotFound, "sandbox %s has no mount %s", idOf(sb), m.ID)
	}
	return fresh, err
}

// handlesOf are the handles by which a mount may be known to its agent: that of the volume as m has it, if it is one of that volume, and what
// the controller has seen.
func handlesOf(sb *v1alpha1.Sandbox, spec mount.Spec, m mount.Mount) (out []string) {
	if spec.IsEphemeral() {
		return []string{spec.Resolve(mount.Owner{}).VolumeHandle}
	}
	if m.VolumeHandle != "" && sameVolume(m.Spec, spec) {
		out = append(out, m.VolumeHandle)
	}
	if known := told(sb, spec); known != nil && known.VolumeHandle != "" && !slices.Contains(out, known.VolumeHandle) {
		out = append(out, known.VolumeHandle)
	}
	return out
}

func sameVolume(a, b mount.Spec) bool {
	return a.Kind == b.Kind && a.Volume == b.Volume && a.IsEphemeral() == b.IsEphemeral()
}
