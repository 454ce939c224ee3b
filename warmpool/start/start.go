// Package start fits out a claimed sandbox, whatever backend it is of: the initialisation of its daemon and the publishes of its
// volumes run together, and what goes wrong becomes the one error that the caller of a create gets. It knows neither how a
// sandbox is reached nor what becomes of it afterwards.
package start

import (
	"context"
	"errors"
	"sync"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// Steps are what is done to a sandbox. Both functions return soon after their context has ended.
type Steps struct {
	Mounts  []mount.Mount
	Publish func(ctx context.Context, m mount.Mount) error
	Init    func(ctx context.Context) error
}

// Result is what came of Steps.
type Result struct {
	mounts      []mount.Mount
	faults      []error // by index of mounts, nil for those that are mounted
	initialised error
	ended       error // of the caller's context
}

// Together does all steps at the same time. The first to fail cancels the others: one is enough to refuse the whole, and the
// others need not take their time. It returns when all have returned.
func Together(ctx context.Context, s Steps) Result {
	r := Result{mounts: s.Mounts, faults: make([]error, len(s.Mounts))}
	within, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for i, m := range s.Mounts {
		wg.Go(func() {
			if r.faults[i] = s.Publish(within, m); r.faults[i] != nil {
				cancel()
			}
		})
	}
	if r.initialised = s.Init(within); r.initialised != nil {
		cancel()
	}
	wg.Wait()
	r.ended = ctx.Err()
	return r
}

// Err is the one error that the caller gets, nil when everything was done. The volumes' own faults go before what else failed.
func (r Result) Err() error {
	own, others := r.own()
	switch {
	case r.ended != nil && (len(own) > 0 || len(others) > 0 || r.initialised != nil):
		return late(own, errors.Join(append(append(own, others...), r.initialised, r.ended)...))
	case len(own) > 0:
		return join(own)
	case errors.Is(r.initialised, initialize.ErrRefused):
		return Unreachable("its daemon has been taken over by somebody else", r.initialised)
	case r.initialised != nil && !errors.Is(r.initialised, context.Canceled):
		return Unreachable("its daemon does not answer", r.initialised)
	case len(others) > 0:
		return Unreachable("its volumes could not be mounted", errors.Join(others...))
	case r.initialised != nil:
		return Unreachable("its daemon does not answer", r.initialised)
	}
	return nil
}

// Volumes are the messages of the mounts that failed, by their IDs.
func (r Result) Volumes() map[string]string {
	out := map[string]string{}
	for i, fault := range r.faults {
		if fault != nil && !r.cancelled(fault) {
			out[r.mounts[i].ID] = Message(Volume(r.mounts[i], fault))
		}
	}
	return out
}

// own are the faults that the volumes have by themselves, as callers read them; others are those of a sandbox that cannot be
// reached, and of publishes that were cancelled because of another step.
func (r Result) own() (own, others []error) {
	for i, fault := range r.faults {
		switch {
		case fault == nil:
		case r.cancelled(fault), errors.Is(fault, warmpool.ErrUnreachable):
			others = append(others, fault)
		default:
			own = append(own, Volume(r.mounts[i], fault))
		}
	}
	return own, others
}

// cancelled says whether a publish ended only because another step had failed.
func (r Result) cancelled(fault error) bool {
	return r.ended == nil && errors.Is(fault, context.Canceled)
}
