package local

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sandgate-dev/sandgate/warmpool"
)

// Claim takes a sandbox from stock, or waits in line for one that is made. It is the claimant's on disk before it is answered.
func (b *Backend) Claim(ctx context.Context, c warmpool.Claim) (warmpool.Sandbox, error) {
	if err := ctx.Err(); err != nil {
		return warmpool.Sandbox{}, &warmpool.Error{Code: warmpool.Unavailable, Message: "the request ended before a sandbox was taken", Err: err}
	}
	if err := b.ready(ctx); err != nil {
		return warmpool.Sandbox{}, err
	}
	b.active.enter()
	defer b.active.leave()
	s, err := b.take(ctx, c)
	if err != nil {
		return warmpool.Sandbox{}, err
	}
	if err := b.persist(s); err != nil {
		b.fail(s, "its state could not be kept")
		return warmpool.Sandbox{}, &warmpool.Error{Code: warmpool.Unavailable, Message: "the sandbox's state could not be kept; try again", RetryAfter: time.Second, Err: err}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.view(s), nil
}

func (b *Backend) take(ctx context.Context, c warmpool.Claim) (*sandbox, error) {
	b.mu.Lock()
	p, err := b.find(c.Template)
	if err != nil {
		b.mu.Unlock()
		return nil, err
	}
	defer b.poke() // there is stock to replace, or somebody waits
	if len(p.waiters) == 0 {
		if s := p.pick(); s != nil {
			b.assign(s, c)
			b.mu.Unlock()
			return s, nil
		}
	}
	now := b.cfg.Clock.Now()
	switch {
	case p.failures >= failing && now.Before(p.retryAt):
		b.mu.Unlock()
		return nil, p.unavailable(now)
	case b.room() <= 0 && p.making <= len(p.waiters):
		b.mu.Unlock()
		return nil, exhausted(p, 5*time.Second, fmt.Errorf("%d sandboxes are the most this machine may have", b.cfg.Max))
	}
	w := &waiter{claim: c, answer: make(chan answer, 1)}
	p.waiters = append(p.waiters, w)
	b.mu.Unlock()
	b.poke()
	return b.await(ctx, p, w)
}

func (b *Backend) await(ctx context.Context, p *pool, w *waiter) (*sandbox, error) {
	// Who waits for a sandbox must not keep it from being made.
	b.active.leave()
	defer b.active.enter()
	select {
	case a := <-w.answer:
		return a.sandbox, a.err
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.leave(w) {
		return nil, exhausted(p, 2*time.Second, ctx.Err())
	}
	// The answer came in the same moment. An assigned sandbox has an owner's mark on it already: it is used, not returned.
	a := <-w.answer
	return a.sandbox, a.err
}

func exhausted(p *pool, after time.Duration, why error) error {
	return &warmpool.Error{
		Code: warmpool.Exhausted, RetryAfter: after, Err: why,
		Message: fmt.Sprintf("no sandbox of template '%s' is free and none could be made in time; try again", p.name),
	}
}

// room is how many more sandboxes may be begun, those already promised to waiters left out.
func (b *Backend) room() int {
	used := len(b.sandboxes) + b.making
	for _, p := range b.pools {
		used += max(0, len(p.waiters)-p.making)
	}
	return b.cfg.Max - used
}

// assign makes s the claim's. It is out of stock already.
func (b *Backend) assign(s *sandbox, c warmpool.Claim) {
	now := b.cfg.Clock.Now()
	s.State, s.Nonce, s.Principal = warmpool.Claimed, string(warmpool.NewID()), c.Principal
	s.Metadata, s.Mounts, s.Timeout = clone(c.Metadata), slices.Concat(s.Mounts, atClaim(s.Volumes), c.Mounts), c.Timeout
	s.StartedAt, s.EndAt = now, now.Add(b.cfg.Grace)
	s.Internet = s.box.Uplink().PID != 0 && (c.AllowInternet == nil || *c.AllowInternet)
}

// offer gives a sandbox that became ready to whoever waits longest, else to stock.
func (b *Backend) offer(p *pool, s *sandbox) {
	if len(p.waiters) == 0 {
		p.stock = append(p.stock, s)
		return
	}
	w := p.waiters[0]
	p.waiters = p.waiters[1:]
	b.assign(s, w.claim)
	w.answer <- answer{sandbox: s}
}
