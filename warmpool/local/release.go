package local

import (
	"context"
	"time"

	"github.com/sandgate-dev/sandgate/warmpool"
)

// endPause is how long after a failure the ending of a sandbox is tried again.
const endPause = 5 * time.Second

// Release ends a sandbox. Only one caller ends it; another at the same time waits and hears that it is gone.
func (b *Backend) Release(ctx context.Context, id warmpool.ID) error {
	if err := b.ready(ctx); err != nil {
		return err
	}
	b.mu.Lock()
	s := b.sandboxes[id]
	if s == nil || !s.claimed() {
		b.mu.Unlock()
		if s != nil && s.Nonce != "" {
			b.gone(ctx, s)
		}
		return codeless(id)
	}
	b.end(s)
	b.mu.Unlock()
	// Ending goes on when the caller has gone away; it is waited for as long as he waits.
	b.gone(ctx, s)
	return nil
}

// gone waits until nothing is left of s.
func (b *Backend) gone(ctx context.Context, s *sandbox) {
	select {
	case <-s.ended:
	case <-b.stopped:
	case <-ctx.Done():
	}
}

// fail marks a sandbox as unusable and ends it.
func (b *Backend) fail(s *sandbox, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !s.ending {
		s.State, s.reason = warmpool.Failed, reason
		b.end(s)
	}
}

// end begins the end of s, once. Called with the lock held.
func (b *Backend) end(s *sandbox) {
	select {
	case <-b.stopped:
		return // the next Run ends it
	default:
	}
	if s.ending {
		return
	}
	s.ending = true
	close(s.dying)
	if s.cancel != nil {
		s.cancel()
	}
	if p := b.pools[s.Template]; p != nil {
		p.drop(s)
	}
	b.work.Go(func() { b.finish(s) })
}

// finish ends s, or leaves it for another try.
func (b *Backend) finish(s *sandbox) {
	s.starting.Lock() // what is under way has been cancelled: what it began is undone here
	defer s.starting.Unlock()
	s.tended.Lock()
	defer s.tended.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), b.cfg.EndTimeout)
	defer cancel()
	err := s.box.End(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.poke()
	if err != nil {
		b.log.Error("sandbox could not be ended; it is tried again", "sandbox", s.ID, "error", err)
		s.retry = b.cfg.Clock.Now().Add(endPause)
		return
	}
	delete(b.sandboxes, s.ID)
	close(s.ended)
}
