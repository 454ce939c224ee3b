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

// Start initialises the sandbox's daemon and publishes its mounts, together. After an error nothing is left of the sandbox.
func (b *Backend) Start(ctx context.Context, id warmpool.ID, st warmpool.Start) (warmpool.Sandbox, error) {
	if err := b.ready(ctx); err != nil {
		return warmpool.Sandbox{}, err
	}
	b.active.enter()
	defer b.active.leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := b.begin(id, cancel)
	if err != nil {
		return warmpool.Sandbox{}, err
	}
	s.starting.Lock()
	var out warmpool.Sandbox
	err = b.fit(ctx, s, st)
	if err == nil {
		out, err = b.started(s, st)
	}
	s.starting.Unlock()
	if err == nil {
		return out, nil
	}
	if errors.Is(err, warmpool.ErrUnreachable) {
		b.log.Warn("sandbox unreachable", "sandbox", id, "error", err)
	}
	after, done := context.WithTimeout(context.WithoutCancel(ctx), b.cfg.EndTimeout)
	defer done()
	b.fail(s, start.Message(err))
	b.gone(after, s)
	return warmpool.Sandbox{}, err
}

// begin finds a claimed sandbox that nobody has started.
func (b *Backend) begin(id warmpool.ID, cancel context.CancelFunc) (*sandbox, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sandboxes[id]
	switch {
	case s == nil || !s.claimed():
		return nil, codeless(id)
	case s.State != warmpool.Claimed || s.cancel != nil:
		return nil, warmpool.Errorf(warmpool.Conflict, "sandbox %s has been started already", id)
	}
	s.cancel = cancel
	return s, nil
}

// fit does everything that a sandbox needs to be its owner's, at the same time.
func (b *Backend) fit(ctx context.Context, s *sandbox, st warmpool.Start) error {
	if !s.Internet && s.box.Uplink().PID != 0 {
		if err := s.box.Isolate(ctx); err != nil {
			return start.Unreachable("its network could not be taken away", err)
		}
	}
	b.mu.Lock()
	for _, m := range st.Mounts {
		s.gave(m)
	}
	b.mu.Unlock()
	token, env := b.belongings(s, st.Env)
	result := start.Together(ctx, start.Steps{
		Mounts: st.Mounts, Publish: s.box.Publish,
		Init: func(ctx context.Context) error {
			_, err := s.box.Init(ctx, token, env)
			return err
		},
	})
	select {
	case <-s.box.Gone(): // a dead sandbox is to blame before its volumes are
		return &warmpool.Error{Code: warmpool.Unavailable, Message: "the sandbox died while it was being started", Err: errDead}
	default:
	}
	b.mu.Lock()
	s.faults = result.Volumes()
	b.mu.Unlock()
	return result.Err()
}

// belongings are the owner's token and what every process of the sandbox starts with: the template's variables, the claim's, and
// those that E2B's sandboxes have.
func (b *Backend) belongings(s *sandbox, claimed map[string]string) (warmpool.Token, map[string]string) {
	out := map[string]string{}
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.pools[s.Template]; p != nil {
		maps.Copy(out, p.env)
	}
	maps.Copy(out, claimed)
	out["E2B_SANDBOX"] = "true"
	out["E2B_SANDBOX_ID"] = string(s.ID)
	out["E2B_TEMPLATE_ID"] = s.Template
	return b.token(s.record), out
}

// started records that the sandbox runs from now on.
func (b *Backend) started(s *sandbox, st warmpool.Start) (warmpool.Sandbox, error) {
	b.mu.Lock()
	if s.ending {
		b.mu.Unlock()
		return warmpool.Sandbox{}, codeless(s.ID)
	}
	now := b.cfg.Clock.Now()
	s.State, s.EndAt, s.looked = warmpool.Running, now.Add(s.Timeout), now
	had := s.Mounted
	s.Mounted = make(map[string]time.Time, len(had)+len(st.Mounts))
	maps.Copy(s.Mounted, had)
	s.Mounts = slices.Clone(s.Mounts)
	for _, m := range st.Mounts {
		s.Mounted[m.ID] = now
		// What was expanded after the claim is the truth now.
		if i := slices.IndexFunc(s.Mounts, func(x mount.Spec) bool { return x.ID == m.ID }); i >= 0 {
			s.Mounts[i] = m.Spec
		} else {
			s.Mounts = append(s.Mounts, m.Spec)
		}
	}
	out := b.view(s)
	b.mu.Unlock()
	if err := b.persist(s); err != nil {
		return warmpool.Sandbox{}, &warmpool.Error{Code: warmpool.Unavailable, Message: "the sandbox's state could not be kept; try again", RetryAfter: time.Second, Err: err}
	}
	b.poke() // a new deadline
	return out, nil
}
