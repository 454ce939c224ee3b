package gateway

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

// Mount mounts a volume into a running sandbox of the principal's team, and answers when it was read there; made says whether it was not
// there before. A spec without an ID that is mounted already, whatever its ID, is that mount. Everything is checked as in Create, under
// the template that the sandbox was made from, and beside the mounts that it has: what those leave no room for is a Conflict.
func (s *Service) Mount(ctx context.Context, p warmpool.Principal, id warmpool.ID, spec mount.Spec) (st warmpool.MountStatus, made bool, err error) {
	ctx, done := s.observe.Phase(ctx, PhasePublish, "")
	within, cancel := context.WithTimeout(ctx, s.limits.Create)
	defer cancel()
	m, err := s.mountable(within, p, id, spec)
	if err == nil {
		st, made, err = s.publish(within, p, id, m)
	}
	err = coded(err)
	done(err)
	s.audit(ctx, "mount", p, id, err, slog.String("mount", m.ID), slog.String("volume", brief(spec)), slog.Bool("made", made))
	return st, made, err
}

func (s *Service) publish(ctx context.Context, p warmpool.Principal, id warmpool.ID, m mount.Mount) (warmpool.MountStatus, bool, error) {
	done, err := s.take(ctx, share{team: p.Team, mounts: 1, sandbox: id, mount: m.ID})
	if err != nil {
		return warmpool.MountStatus{}, false, err
	}
	defer done()
	st, made, err := s.backend.Publish(ctx, id, m)
	return st, made, final(err)
}

// CheckMount says what Mount would refuse before it mounts anything, as Check does for Create.
func (s *Service) CheckMount(ctx context.Context, p warmpool.Principal, id warmpool.ID, spec mount.Spec) error {
	within, cancel := context.WithTimeout(ctx, s.limits.Create)
	defer cancel()
	_, err := s.mountable(within, p, id, spec)
	return coded(err)
}

// mountable is a spec as it is to be mounted into a running sandbox. Nothing is refused room for what another replica has taken away.
func (s *Service) mountable(ctx context.Context, p warmpool.Principal, id warmpool.ID, spec mount.Spec) (mount.Mount, error) {
	sb, err := s.Get(ctx, p, id)
	if err != nil {
		return mount.Mount{}, err
	}
	m, err := s.beside(ctx, p, sb, spec)
	if warmpool.CodeOf(err) != warmpool.Conflict {
		return m, err
	}
	if sb, err = s.reread(ctx, p, sb); err != nil {
		return m, err
	}
	return s.beside(ctx, p, sb, spec)
}

// beside is mountable for a sandbox as it is known.
func (s *Service) beside(ctx context.Context, p warmpool.Principal, sb warmpool.Sandbox, spec mount.Spec) (mount.Mount, error) {
	derived := spec.ID == spec.DerivedID()
	if c := sb.MadeFrom.Containers; len(c) > 0 && spec.Container == c[0].Name {
		spec.Container = "" // one name for one place
	}
	if derived {
		spec.ID = spec.DerivedID()
	}
	resolved, faults, err := s.judge(ctx, sb.MadeFrom, warmpool.Claim{Principal: p, Metadata: sb.Metadata}, &sb.Node, []mount.Spec{spec})
	if err != nil {
		return mount.Mount{}, err
	}
	m := resolved[0]
	there := make([]mount.Spec, len(sb.Mounts))
	for i, have := range sb.Mounts {
		there[i] = have.Spec
	}
	if len(faults) == 0 {
		expanded, err := volume.Expand(resolved, sb.ID, sb.Metadata)
		if err != nil {
			return m, refusal(err)
		}
		m = expanded[0]
		if have, ok := known(there, m, derived); ok {
			return have, nil
		}
	}
	var clashes mount.Faults
	if err := s.policy.Beside(there, m.Spec); err != nil && !errors.As(err, &clashes) {
		return m, err
	}
	if derived { // the same volume at the same target, which says it all
		clashes = slices.DeleteFunc(clashes, func(f mount.Fault) bool { return f.Field == mount.FieldID })
	}
	if len(faults) > 0 {
		return m, refusal(append(faults, clashes...))
	}
	if len(clashes) > 0 {
		return m, &warmpool.Error{Code: warmpool.Conflict, Message: clashes.Error(), Err: clashes}
	}
	return m, nil
}

// known is m by the name that it has among the mounts that are there. One that was not named goes by any.
func known(there []mount.Spec, m mount.Mount, unnamed bool) (mount.Mount, bool) {
	for _, have := range there {
		same := m
		if unnamed {
			same.ID = have.ID
		}
		if same.Is(have) {
			same.AllowNonEmpty = have.AllowNonEmpty
			return same, true
		}
	}
	return m, false
}

// Mounted is one mount of a running sandbox of the principal's team.
func (s *Service) Mounted(ctx context.Context, p warmpool.Principal, id warmpool.ID, mountID string) (warmpool.Sandbox, warmpool.MountStatus, error) {
	sb, err := s.Get(ctx, p, id)
	if err != nil {
		return sb, warmpool.MountStatus{}, err
	}
	st, err := mountOf(sb, mountID)
	return sb, st, err
}

func mountOf(sb warmpool.Sandbox, mountID string) (warmpool.MountStatus, error) {
	i := slices.IndexFunc(sb.Mounts, func(m warmpool.MountStatus) bool { return m.ID == mountID })
	if i < 0 {
		return warmpool.MountStatus{}, warmpool.Errorf(warmpool.NotFound, "sandbox %s has no mount of that ID", sb.ID)
	}
	return sb.Mounts[i], nil
}

// unmountable is Mounted for who is about to take it away: it may have been made over another replica a moment ago.
func (s *Service) unmountable(ctx context.Context, p warmpool.Principal, id warmpool.ID, mountID string) (warmpool.Sandbox, warmpool.MountStatus, error) {
	sb, st, err := s.Mounted(ctx, p, id, mountID)
	if err == nil || sb.ID == "" {
		return sb, st, err
	}
	if sb, err = s.reread(ctx, p, sb); err != nil {
		return sb, warmpool.MountStatus{}, err
	}
	st, err = mountOf(sb, mountID)
	return sb, st, err
}

// Unmount takes a mount from a running sandbox. One in use is a Conflict and stays, unless force. lossy says that what was written last
// may not have reached the storage; the mount is gone all the same. Once begun it is not given up when the caller leaves.
func (s *Service) Unmount(ctx context.Context, p warmpool.Principal, id warmpool.ID, mountID string, force bool) (lossy bool, err error) {
	ctx, done := s.observe.Phase(ctx, PhaseUnpublish, "")
	sb, st, err := s.unmountable(ctx, p, id, mountID)
	if err == nil {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limits.Undo)
		defer cancel()
		m := mount.Mount{Spec: st.Spec, VolumeHandle: volume.Handle(after, s.reader, sb.MadeFrom, st.Spec)}
		err = s.backend.Unpublish(after, id, m, force)
	}
	if errors.Is(err, warmpool.ErrDataLoss) {
		s.logger.LogAttrs(ctx, slog.LevelWarn, "volume unmounted, its last writes may be missing",
			slog.String("request", RequestID(ctx)), slog.String("sandbox", string(id)), slog.String("volume", brief(st.Spec)), slog.Any("error", err))
		lossy, err = true, nil
	}
	err = coded(err)
	done(err)
	s.audit(ctx, "unmount", p, id, err, slog.String("mount", st.ID), slog.String("volume", brief(st.Spec)), slog.Bool("force", force), slog.Bool("lossy", lossy))
	return lossy, err
}
