package local

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/start"
)

// Publish mounts a volume into a running sandbox. It is in the record before it is in the sandbox, so that a process that dies in
// between leaves nothing that the next one does not find.
func (b *Backend) Publish(ctx context.Context, id warmpool.ID, m mount.Mount) (warmpool.MountStatus, bool, error) {
	ctx, s, done, err := b.change(ctx, id, m.ID)
	if err != nil {
		return warmpool.MountStatus{}, false, err
	}
	defer done()
	made, err := b.intend(s, m)
	if err != nil {
		return warmpool.MountStatus{}, false, err
	}
	err = start.Mounted(m, s.box.Publish(ctx, m))
	var st warmpool.MountStatus
	if err == nil {
		st, err = b.mounted(s, m)
	}
	if err == nil {
		return st, made, nil
	}
	if made {
		err = errors.Join(err, b.forget(s, m.ID))
	}
	select {
	case <-s.dying: // it is to blame before its volume is
		err = codeless(id)
	default:
	}
	return warmpool.MountStatus{}, false, err
}

// Unpublish takes a mount from a running sandbox.
func (b *Backend) Unpublish(ctx context.Context, id warmpool.ID, m mount.Mount, force bool) error {
	ctx, s, done, err := b.change(ctx, id, m.ID)
	if err != nil {
		return err
	}
	defer done()
	spec, err := b.asked(s, m.ID)
	if err != nil {
		return err
	}
	err = start.Unmounted(spec, s.box.Unpublish(ctx, spec.Target, force))
	if err != nil && !errors.Is(err, warmpool.ErrDataLoss) {
		return err
	}
	if kept := b.forget(s, m.ID); kept != nil {
		return kept
	}
	return err
}

// change begins a change of one of a running sandbox's mounts, once nobody else changes it. The sandbox's end cuts it short and waits for it.
func (b *Backend) change(ctx context.Context, id warmpool.ID, mountID string) (context.Context, *sandbox, func(), error) {
	if err := b.ready(ctx); err != nil {
		return nil, nil, nil, err
	}
	b.mu.Lock()
	s := b.sandboxes[id]
	b.mu.Unlock()
	if s == nil {
		return nil, nil, nil, codeless(id)
	}
	s.starting.RLock()
	b.mu.Lock()
	running := s.claimed() && s.State == warmpool.Running
	b.mu.Unlock()
	if !running {
		s.starting.RUnlock()
		return nil, nil, nil, codeless(id)
	}
	b.active.enter()
	within, cancel := context.WithCancel(ctx)
	go func() { // ends with the change
		select {
		case <-s.dying:
			cancel()
		case <-within.Done():
		}
	}()
	leave := func() {
		cancel()
		b.active.leave()
		s.starting.RUnlock()
	}
	end, err := b.turn(within, s, mountID)
	if err != nil {
		leave()
		return nil, nil, nil, err
	}
	return within, s, func() { end(); leave() }, nil
}

// turn waits until nobody else changes the mount, and returns what lets the next one.
func (b *Backend) turn(ctx context.Context, s *sandbox, mountID string) (end func(), err error) {
	for {
		b.mu.Lock()
		other := s.changing[mountID]
		if other == nil {
			if s.changing == nil {
				s.changing = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			s.changing[mountID] = mine
			b.mu.Unlock()
			return func() {
				b.mu.Lock()
				delete(s.changing, mountID)
				b.mu.Unlock()
				close(mine)
			}, nil
		}
		b.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			select {
			case <-s.dying:
				return nil, codeless(s.ID)
			default:
			}
			return nil, &warmpool.Error{
				Code: warmpool.Unavailable, Message: "another request is changing this mount; try again", RetryAfter: time.Second, Err: ctx.Err(),
			}
		}
	}
}

// intend writes down that m is wanted, and says whether it was not before.
func (b *Backend) intend(s *sandbox, m mount.Mount) (bool, error) {
	b.mu.Lock()
	if slices.ContainsFunc(s.Mounts, m.Is) {
		b.mu.Unlock()
		return false, nil
	}
	if err := start.Beside(s.Mounts, m.Spec); err != nil {
		b.mu.Unlock()
		return false, err
	}
	s.Mounts = append(slices.Clone(s.Mounts), m.Spec) // a record that is being written keeps its own
	s.gave(m)
	b.mu.Unlock()
	if err := b.persist(s); err != nil {
		_ = b.forget(s, m.ID) // it cannot be written either
		return false, unkept(err)
	}
	return true, nil
}

// mounted notes that m is there.
func (b *Backend) mounted(s *sandbox, m mount.Mount) (warmpool.MountStatus, error) {
	b.mu.Lock()
	i := slices.IndexFunc(s.Mounts, m.Is)
	if i < 0 {
		b.mu.Unlock()
		return warmpool.MountStatus{}, warmpool.Errorf(warmpool.Unavailable, "volume '%s' at %s was taken away while it was mounted; try again", m.Volume, m.Target)
	}
	spec := s.Mounts[i]
	if s.Mounted[spec.ID].IsZero() {
		s.Mounted = without(s.Mounted, spec.ID) // a copy
		if s.Mounted == nil {
			s.Mounted = map[string]time.Time{}
		}
		s.Mounted[spec.ID] = b.cfg.Clock.Now()
	}
	s.faults = without(s.faults, spec.ID)
	s.gave(m)
	st := s.status(spec)
	b.mu.Unlock()
	if err := b.persist(s); err != nil {
		return warmpool.MountStatus{}, unkept(err)
	}
	return st, nil
}

// asked is the spec of one of a sandbox's mounts.
func (b *Backend) asked(s *sandbox, mountID string) (mount.Spec, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, spec := range s.Mounts {
		if spec.ID == mountID {
			return spec, nil
		}
	}
	return mount.Spec{}, warmpool.Errorf(warmpool.NotFound, "sandbox %s has no mount %s", s.ID, mountID)
}

// forget takes a mount out of the record.
func (b *Backend) forget(s *sandbox, mountID string) error {
	b.mu.Lock()
	s.Mounts = slices.DeleteFunc(slices.Clone(s.Mounts), func(m mount.Spec) bool { return m.ID == mountID })
	s.Mounted, s.faults, s.seen = without(s.Mounted, mountID), without(s.faults, mountID), without(s.seen, mountID)
	delete(s.given, mountID)
	delete(s.lacks, mountID)
	b.mu.Unlock()
	if err := b.persist(s); err != nil {
		return unkept(err)
	}
	return nil
}

// dropUnfinished takes away what an earlier process was mounting when it ended: nobody was told that it is there. The lock is held.
func (b *Backend) dropUnfinished(s *sandbox) {
	var half []mount.Spec
	for _, m := range s.Mounts {
		if s.Mounted[m.ID].IsZero() {
			half = append(half, m)
		}
	}
	if len(half) == 0 {
		return
	}
	s.Mounts = slices.DeleteFunc(slices.Clone(s.Mounts), func(m mount.Spec) bool { return slices.Contains(half, m) })
	b.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), b.cfg.EndTimeout)
		defer cancel()
		s.starting.RLock()
		defer s.starting.RUnlock()
		for _, m := range half {
			err := b.dropHalf(ctx, s, m)
			b.log.Info("took away a mount that was being made when the process ended", "sandbox", s.ID, "mount", m.ID, "error", err)
		}
		if err := b.persist(s); err != nil {
			b.log.Error("state of a sandbox could not be kept", "sandbox", s.ID, "error", err)
		}
	})
}

// dropHalf takes away a mount that nobody has asked for anew.
func (b *Backend) dropHalf(ctx context.Context, s *sandbox, m mount.Spec) error {
	end, err := b.turn(ctx, s, m.ID)
	if err != nil {
		return err
	}
	defer end()
	b.mu.Lock()
	anew := slices.ContainsFunc(s.Mounts, func(x mount.Spec) bool { return x.ID == m.ID })
	b.mu.Unlock()
	if anew {
		return nil
	}
	return s.box.Unpublish(ctx, m.Target, true)
}

// without is m without a key; m itself stays as it is, since somebody may be reading it.
func without[V any](m map[string]V, key string) map[string]V {
	out := maps.Clone(m)
	delete(out, key)
	return out
}

func unkept(err error) error {
	return &warmpool.Error{Code: warmpool.Unavailable, Message: "the sandbox's state could not be kept; try again", RetryAfter: time.Second, Err: err}
}
