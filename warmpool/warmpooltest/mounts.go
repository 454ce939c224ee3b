package warmpooltest

import (
	"context"
	"errors"
	"slices"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/start"
)

// Publish adds a mount to a running sandbox.
func (m *Memory) Publish(ctx context.Context, id warmpool.ID, asked mount.Mount) (warmpool.MountStatus, bool, error) {
	if st, room, err := m.room(id, asked); !room || err != nil {
		return st, false, err
	}
	if m.OnPublish != nil {
		if err := m.OnPublish(ctx, id, asked); err != nil {
			return warmpool.MountStatus{}, false, err
		}
	}
	if err := ctx.Err(); err != nil {
		return warmpool.MountStatus{}, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if st, room, err := m.roomNow(id, asked); !room || err != nil { // somebody was faster
		return st, false, err
	}
	s, st := m.running(id), warmpool.MountStatus{Spec: asked.Spec, Phase: warmpool.MountReady, Verdict: warmpool.MountLive, MountedAt: m.clock.Now()}
	s.Mounts = append(slices.Clone(s.Mounts), st)
	return st, true, nil
}

// room finds the mount, or says that there is room for it.
func (m *Memory) room(id warmpool.ID, asked mount.Mount) (warmpool.MountStatus, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.roomNow(id, asked)
}

// roomNow is room for callers that hold the lock.
func (m *Memory) roomNow(id warmpool.ID, asked mount.Mount) (warmpool.MountStatus, bool, error) {
	m.reap()
	s := m.running(id)
	if s == nil {
		return warmpool.MountStatus{}, false, gone(id)
	}
	var there []mount.Spec
	for _, st := range s.Mounts {
		if asked.Is(st.Spec) {
			return st, false, nil
		}
		there = append(there, st.Spec)
	}
	return warmpool.MountStatus{}, true, start.Beside(there, asked.Spec)
}

// Unpublish takes a mount from a running sandbox.
func (m *Memory) Unpublish(ctx context.Context, id warmpool.ID, asked mount.Mount, force bool) error {
	var lost error
	if m.OnUnpublish != nil {
		if err := m.OnUnpublish(ctx, id, asked, force); err != nil && !errors.Is(err, warmpool.ErrDataLoss) {
			return err
		} else if err != nil {
			lost = err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reap()
	s := m.running(id)
	if s == nil {
		return gone(id)
	}
	i := slices.IndexFunc(s.Mounts, func(st warmpool.MountStatus) bool { return st.ID == asked.ID })
	if i < 0 {
		return warmpool.Errorf(warmpool.NotFound, "sandbox %s has no mount %s", id, asked.ID)
	}
	s.Mounts = slices.Delete(slices.Clone(s.Mounts), i, i+1)
	return lost
}

func (m *Memory) running(id warmpool.ID) *warmpool.Sandbox {
	if s := m.claimed[id]; s != nil && s.State == warmpool.Running {
		return s
	}
	return nil
}
