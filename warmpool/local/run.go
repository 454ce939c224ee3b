package local

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"

	"github.com/sandgate-dev/sandgate/warmpool"
)

const (
	// idle is how long Run sleeps when nothing is due.
	idle = time.Hour
	// yield is how long a refill lets claims under way go first.
	yield = 200 * time.Millisecond
)

// Run takes over what an earlier process left, then keeps the pools full and ends what is past its time until ctx ends. The
// sandboxes live on after it; the next Run, of this or another process, takes them over.
func (b *Backend) Run(ctx context.Context) error {
	defer b.unlock()
	defer b.detach()
	defer b.work.Wait()
	defer b.stop()
	changed := b.cfg.Changed() // taken before the sets are read, so that nothing is missed
	b.reconcile()
	if err := b.adopt(ctx); err != nil {
		return err
	}
	close(b.adopted)
	b.work.Go(func() { b.machine.Watch(ctx) })
	b.work.Go(func() { b.watchUsage(ctx) })
	b.work.Go(func() { b.tendMounts(ctx) })
	timer := b.cfg.Clock.NewTimer(idle)
	defer timer.Stop()
	for {
		restart(timer, b.step(ctx))
		select {
		case <-ctx.Done():
			return nil
		case <-b.wake:
		case <-timer.C():
		case <-changed:
			changed = b.cfg.Changed()
			b.reconcile()
			signal(b.look)
		}
	}
}

func restart(t clock.Timer, d time.Duration) {
	if !t.Stop() {
		select {
		case <-t.C():
		default:
		}
	}
	t.Reset(d)
}

// stop refuses what is asked from now on, so that nothing new begins while Run waits for what is under way.
func (b *Backend) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.stopped)
	for _, p := range b.pools {
		for _, w := range p.waiters {
			w.answer <- answer{err: errStopped}
		}
		p.waiters = nil
	}
}

// detach lets go of all sandboxes. Nothing else runs any more.
func (b *Backend) detach() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.sandboxes {
		s.box.Detach()
	}
}

// reconcile makes the pools what the sets say. Stock of a changed or removed set is ended.
func (b *Backend) reconcile() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.cfg.Clock.Now()
	wanted := map[string]bool{}
	for _, set := range b.cfg.Sets() {
		next, err := planOf(set, b.size, b.cfg.MaxMounts, b.made)
		if err != nil {
			b.log.Error("pool stays as it is", "template", set.Name, "error", err)
			wanted[set.Name] = true
			continue
		}
		wanted[next.name] = true
		b.announce(next)
		p := b.pools[next.name]
		if p == nil {
			p = &pool{updated: now}
			b.pools[next.name] = p
		}
		if p.revision != next.revision || p.removed {
			p.updated = now
			p.succeeded() // what failed may be what was changed
		}
		p.plan, p.removed = next, false
		if p.created.IsZero() {
			p.created = now
		}
		b.retire(p)
	}
	for name, p := range b.pools {
		if !wanted[name] {
			b.remove(p)
		}
	}
}

// announce says once per set what this machine makes of it.
func (b *Backend) announce(p plan) {
	b.note("image "+p.name+" "+p.image, "sandboxes of this set run this machine's userland, not the image", "template", p.name, "image", p.image)
	b.note("network "+p.name+" "+string(p.network), "network of this set's sandboxes", "template", p.name, "network", p.network)
}

// retire ends stock that its set does not want any more: of another revision, or too much of it.
func (b *Backend) retire(p *pool) {
	for i := len(p.stock) - 1; i >= 0; i-- {
		if s := p.stock[i]; s.Revision != p.revision || len(p.stock) > p.replicas {
			b.end(s)
		}
	}
}

func (b *Backend) remove(p *pool) {
	p.removed = true
	for len(p.stock) > 0 {
		b.end(p.stock[0])
	}
	for _, w := range p.waiters {
		w.answer <- answer{err: warmpool.Errorf(warmpool.NotFound, "template '%s' not found", p.name)}
	}
	p.waiters = nil
	if p.making == 0 {
		delete(b.pools, p.name)
	}
}

// step does everything that is due and returns how long nothing will be.
func (b *Backend) step(ctx context.Context) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ctx.Err() != nil {
		return idle
	}
	now := b.cfg.Clock.Now()
	next := idle
	soon := func(at time.Time) { next = max(0, min(next, at.Sub(now))) }
	for _, s := range b.sandboxes {
		switch {
		case s.ending && s.retry.IsZero():
		case s.ending && now.Before(s.retry):
			soon(s.retry)
		case s.ending:
			s.retry = time.Time{}
			b.work.Go(func() { b.finish(s) })
		case s.claimed() && !now.Before(s.EndAt):
			b.end(s)
		case s.claimed():
			soon(s.EndAt)
		}
	}
	b.refill(ctx, now)
	for _, p := range b.pools {
		if now.Before(p.retryAt) {
			soon(p.retryAt)
		}
		if at, suspected := p.grown(now); suspected {
			soon(at)
		}
	}
	return next
}

// refill begins sandboxes, those that somebody waits for first, a few at a time.
func (b *Backend) refill(ctx context.Context, now time.Time) {
	for _, urgent := range []bool{true, false} {
		for _, p := range b.sorted() {
			for b.making < b.cfg.Parallel && len(b.sandboxes)+b.making < b.cfg.Max && p.wanted(now) > 0 && (!urgent || len(p.waiters) > p.making) {
				p.making++
				b.making++
				b.work.Go(func() { b.make(ctx, p, urgent) })
			}
		}
	}
}

// make makes one sandbox for p.
func (b *Backend) make(ctx context.Context, p *pool, urgent bool) {
	if !urgent {
		b.stepAside(ctx)
	}
	b.mu.Lock()
	plan := p.plan
	plan.patient = !urgent
	b.mu.Unlock()
	id := warmpool.NewID()
	within, cancel := context.WithTimeout(ctx, b.cfg.MakeTimeout)
	s, err := b.bringUp(within, id, plan)
	cancel()
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.poke()
	p.making--
	b.making--
	now := b.cfg.Clock.Now()
	switch {
	case err != nil && ctx.Err() != nil:
		return
	case err != nil:
		b.log.Error("sandbox could not be made", "template", p.name, "sandbox", id, "error", err)
		for _, w := range p.failed(now, err) {
			w.answer <- answer{err: p.unavailable(now)}
		}
		return
	}
	b.sandboxes[id] = s
	b.work.Go(func() { b.guard(ctx, s) })
	if p.removed || s.Revision != p.revision {
		b.end(s)
		if p.removed && p.making == 0 && b.pools[p.name] == p {
			delete(b.pools, p.name)
		}
		return
	}
	if p.deaths == 0 {
		p.succeeded() // else only one that grows up clears the suspicion
	}
	b.offer(p, s)
}

func (b *Backend) bringUp(ctx context.Context, id warmpool.ID, p plan) (*sandbox, error) {
	made, err := b.machine.Make(ctx, id, p)
	if err != nil {
		return nil, err
	}
	s := &sandbox{box: made, made: b.cfg.Clock.Now(), dying: make(chan struct{}), ended: make(chan struct{}), record: record{
		ID: id, Template: p.name, Aliases: p.aliases, Revision: p.revision, Resources: p.resources, State: warmpool.Available,
		Runtimes: p.runtimes, Containers: p.names, MemoryLimit: p.limits.Memory, Reserved: p.reserved, Owner: p.owner,
		Namespace: p.namespace, Volumes: p.volumes, Process: made.Process(), Uplink: made.Uplink(),
	}}
	err = b.furnish(ctx, s)
	if err == nil {
		err = b.machine.Save(s.record)
	}
	if err != nil {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.cfg.EndTimeout)
		defer cancel()
		return nil, errors.Join(err, made.End(end))
	}
	return s, nil
}

// stepAside lets claims under way go first, but not for ever: under steady load the stock must grow, too.
func (b *Backend) stepAside(ctx context.Context) {
	calm := b.active.calm()
	if calm == nil {
		return
	}
	end := b.cfg.Clock.NewTimer(yield)
	defer end.Stop()
	select {
	case <-ctx.Done():
	case <-end.C():
	case <-calm:
	}
}

// guard notices when a sandbox dies by itself.
func (b *Backend) guard(ctx context.Context, s *sandbox) {
	select {
	case <-ctx.Done():
		return
	case <-s.ended:
		return
	case <-s.box.Gone():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.ending {
		return
	}
	b.log.Warn("sandbox died", "sandbox", s.ID, "template", s.Template, "state", s.State)
	now := b.cfg.Clock.Now()
	if p := b.pools[s.Template]; p != nil && s.State == warmpool.Available && now.Sub(s.made) < infant {
		p.deaths++
		for _, w := range p.failed(now, fmt.Errorf("a sandbox died %s after it was ready", now.Sub(s.made).Round(time.Millisecond))) {
			w.answer <- answer{err: p.unavailable(now)}
		}
	}
	s.State, s.reason = warmpool.Failed, "the sandbox's main process ended"
	b.end(s)
	b.poke()
}

// adopt takes over what lives of an earlier process's sandboxes and removes the rest.
func (b *Backend) adopt(ctx context.Context) error {
	known, err := b.machine.Known()
	if err != nil {
		return err
	}
	// They mostly wait for their starters, which try again every other second when nobody has listened for long.
	var group errgroup.Group
	group.SetLimit(64)
	for _, id := range known {
		r, decided, why := b.judge(id)
		switch decided {
		case adoptClaimed:
			group.Go(func() error {
				b.adoptOne(ctx, r)
				return nil
			})
		case adoptStock:
			b.adoptLater(ctx, r)
		default:
			b.discard(ctx, r, why)
		}
	}
	_ = group.Wait() // none returns an error: one that cannot be adopted is removed
	return nil
}

func (b *Backend) judge(id warmpool.ID) (record, verdict, string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, err := b.machine.Load(id)
	if err != nil {
		return record{ID: id}, discard, "no readable state"
	}
	revisions := map[string]string{}
	for name, p := range b.pools {
		revisions[name] = p.revision
	}
	decided, why := judge(r, revisions, b.cfg.Clock.Now())
	return r, decided, why
}

// adoptLater adopts stock while claims are served already. Until then it counts as being made, so that it is not made twice.
func (b *Backend) adoptLater(ctx context.Context, r record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pools[r.Template]
	p.making++
	b.work.Go(func() {
		b.adoptOne(ctx, r)
		b.mu.Lock()
		defer b.mu.Unlock()
		p.making--
		b.poke()
	})
}

func (b *Backend) adoptOne(ctx context.Context, r record) {
	within, cancel := context.WithTimeout(ctx, b.cfg.MakeTimeout)
	defer cancel()
	found, err := b.machine.Adopt(within, r)
	switch {
	case err == nil:
		b.takeOver(ctx, r, found)
	case ctx.Err() == nil: // else it is not its fault, and the next start looks again
		b.discard(ctx, r, err.Error())
	}
}

// discard removes what is left of a sandbox. Claims need not wait for volumes that take their time to be unmounted.
func (b *Backend) discard(ctx context.Context, r record, why string) {
	b.log.Info("removing what is left of a sandbox", "sandbox", r.ID, "template", r.Template, "reason", why)
	b.work.Go(func() {
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.cfg.EndTimeout)
		defer cancel()
		if err := b.machine.Discard(within, r.ID); err != nil {
			b.log.Error("what is left of a sandbox could not be removed", "sandbox", r.ID, "error", err)
		}
	})
}

func (b *Backend) takeOver(ctx context.Context, r record, found box) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &sandbox{record: r, box: found, made: time.Time{}, dying: make(chan struct{}), ended: make(chan struct{})}
	s.Uplink = found.Uplink()
	b.sandboxes[r.ID] = s
	signal(b.look)
	if r.State == warmpool.Running {
		b.dropUnfinished(s)
	}
	b.work.Go(func() { b.guard(ctx, s) })
	if r.State == warmpool.Available {
		p := b.pools[r.Template]
		if p != nil && !p.removed && p.revision == r.Revision && (len(p.waiters) > 0 || len(p.stock) < p.replicas) {
			b.offer(p, s)
			return
		}
		b.end(s)
	}
}
