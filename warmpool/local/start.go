package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
	"github.com/sandgate-dev/sandgate/warmpool"
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
	b.fail(s, message(err))
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
			return unreachable("its network could not be taken away", err)
		}
	}
	faults := make([]error, len(st.Mounts))
	var wg sync.WaitGroup
	within, cancel := context.WithCancel(ctx)
	defer cancel()
	for i, m := range st.Mounts {
		wg.Go(func() {
			if faults[i] = s.box.Publish(within, m); faults[i] != nil {
				cancel() // one is enough to refuse the whole; the others need not take their time
			}
		})
	}
	token, env := b.belongings(s, st.Env)
	_, err := s.box.Init(within, token, env)
	if err != nil {
		cancel()
	}
	wg.Wait()
	return b.outcome(ctx, s, st.Mounts, faults, err)
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

// outcome turns what went wrong into the one error that the caller gets: a dead sandbox is to blame before its volumes are.
func (b *Backend) outcome(ctx context.Context, s *sandbox, mounts []mount.Mount, faults []error, initialised error) error {
	select {
	case <-s.box.Gone():
		return &warmpool.Error{Code: warmpool.Unavailable, Message: "the sandbox died while it was being started", Err: errDead}
	default:
	}
	cancelled := 0
	var own []error
	for i, fault := range faults {
		if fault == nil {
			continue
		}
		if errors.Is(fault, context.Canceled) && ctx.Err() == nil {
			cancelled++
			continue
		}
		own = append(own, volumeError(mounts[i], fault))
		b.mu.Lock()
		if s.faults == nil {
			s.faults = map[string]string{}
		}
		s.faults[mounts[i].ID] = message(own[len(own)-1])
		b.mu.Unlock()
	}
	switch {
	case ctx.Err() != nil && (len(own) > 0 || initialised != nil):
		return late(own, errors.Join(append(own, initialised, ctx.Err())...))
	case len(own) > 0:
		return joinVolumes(own)
	case errors.Is(initialised, initialize.ErrRefused):
		return unreachable("its daemon has been taken over by somebody else", initialised)
	case initialised != nil:
		return unreachable("its daemon does not answer", initialised)
	case cancelled > 0:
		return unreachable("its volumes could not be mounted", errors.Join(faults...))
	}
	return nil
}

// late is the error of a start that took too long, with the volumes that it waited for.
func late(volumes []error, cause error) error {
	text := "the sandbox was not ready within the request's time"
	if len(volumes) > 0 {
		text += ": " + message(joinVolumes(volumes))
	}
	return &warmpool.Error{Code: warmpool.Unavailable, Message: text, Err: cause}
}

func unreachable(what string, err error) error {
	return &warmpool.Error{Code: warmpool.Unavailable, Message: "the sandbox cannot be used: " + what, Err: fmt.Errorf("%w: %w", warmpool.ErrUnreachable, err)}
}

// volumeError is a driver's error as the caller of a create reads it. What a driver did not classify stays in the log.
func volumeError(m mount.Mount, err error) error {
	where := fmt.Sprintf("volume '%s' at %s", m.Volume, m.Target)
	var faults mount.Faults
	if errors.As(err, &faults) {
		return &warmpool.Error{Code: warmpool.Invalid, Message: where + " could not be mounted: " + faults.Error(), Err: err}
	}
	for _, kind := range []struct {
		is   error
		code warmpool.Code
	}{
		{mount.ErrInvalid, warmpool.Invalid},
		{mount.ErrDenied, warmpool.Denied},
		// A volume that is not there is the request's fault; the code NotFound would speak of the template.
		{mount.ErrNotFound, warmpool.Invalid},
		{mount.ErrUnavailable, warmpool.Unavailable},
		{node.ErrConflict, warmpool.Conflict},
	} {
		if errors.Is(err, kind.is) {
			return &warmpool.Error{Code: kind.code, Message: where + " could not be mounted: " + err.Error(), Err: err}
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return &warmpool.Error{Code: warmpool.Unavailable, Message: where + " was not mounted in time", Err: err}
	}
	return &warmpool.Error{Code: warmpool.Internal, Message: where + " could not be mounted; the operator finds the reason in the log", Err: err}
}

// joinVolumes names every volume that failed, under the first one's code.
func joinVolumes(all []error) error {
	if len(all) == 1 {
		return all[0]
	}
	lines := make([]string, len(all))
	for i, err := range all {
		lines[i] = message(err)
	}
	return &warmpool.Error{Code: warmpool.CodeOf(all[0]), Message: strings.Join(lines, "; "), Err: errors.Join(all...)}
}

func message(err error) string {
	var e *warmpool.Error
	if errors.As(err, &e) {
		return e.Message
	}
	return "internal error"
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
	s.Mounted = map[string]time.Time{}
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
