package node

import (
	"errors"
	"fmt"
	"time"
)

// past is what became of the clients at a place, also of those that others have replaced. Guarded by Node.mu.
type past struct {
	deaths []time.Time // of the last minute
	why    string      // of the last one
	heals  int
	healed time.Time // the last time
}

// Clients that die again and again are replaced less and less often: the pause after the first death of a minute, the second, and so on.
// After as many as there are pauses it lasts until there are fewer.
var pauses = []time.Duration{0, 100 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second}

const memory = time.Minute

func (n *Node) pastOf(p place) *past {
	if n.past[p] == nil {
		n.past[p] = &past{}
	}
	return n.past[p]
}

func (p *past) died(now time.Time, why string) {
	p.recent(now)
	p.deaths, p.why = append(p.deaths, now), why
}

// recent forgets deaths that are too long ago to count, and says how many are left.
func (p *past) recent(now time.Time) int {
	for len(p.deaths) > 0 && now.Sub(p.deaths[0]) >= memory {
		p.deaths = p.deaths[1:]
	}
	return len(p.deaths)
}

// rest is how long no client is to be started, and why when that is longer than a pause.
func (p *past) rest(now time.Time) (time.Duration, string) {
	count := p.recent(now)
	switch {
	case count == 0:
		return 0, ""
	case count > len(pauses):
		return memory - now.Sub(p.deaths[count-len(pauses)-1]), fmt.Sprintf("dead: its client died %d times in 1 min: %s", count, p.why)
	}
	return pauses[count-1] - now.Sub(p.deaths[count-1]), ""
}

// String says of a live volume what its owner should know; p may be nil.
func (p *past) String() string {
	if p == nil || p.heals == 0 {
		return ""
	}
	times := "once"
	if p.heals > 1 {
		times = fmt.Sprintf("%d times", p.heals)
	}
	return fmt.Sprintf("healed %s, last at %s: %s", times, p.healed.UTC().Format(time.RFC3339), p.why)
}

// care looks at a volume that can hang as often as nobody else does, and replaces a client that has died or does not answer. Node.mu is
// held. The goroutine ends with unwatch; Close waits for it.
func (n *Node) care(e *entry) {
	quit := make(chan struct{})
	e.quit, e.wake = quit, make(chan struct{}, 1)
	if e.dead != "" {
		e.wake <- struct{}{}
	}
	n.carers.Go(func() {
		timer := n.config.Clock.NewTimer(n.config.LookEvery)
		defer timer.Stop()
		tries := 0
		for {
			select {
			case <-quit:
				return
			case <-e.wake:
			case <-timer.C():
				n.follow(e)
				if n.due(e) {
					n.health(n.ctx, e)
				}
			}
			next := n.config.LookEvery
			if n.broken(e) {
				if wait := n.heal(e, tries); wait > 0 {
					next = wait
				}
				tries++
			}
			timer.Stop()
			timer = n.config.Clock.NewTimer(next)
		}
	})
}

// due says whether nobody has looked at e for a while.
func (n *Node) due(e *entry) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return e.dead == "" && n.config.Clock.Since(e.look.at) >= n.config.LookEvery
}

// firstRetry and lastRetry are the pauses between attempts to replace a client that do not work, the first and the longest.
const firstRetry, lastRetry = time.Second, 30 * time.Second

// heal puts another client in the place of e's, unless that is to wait; it returns how long until it should be tried again.
func (n *Node) heal(e *entry, tries int) time.Duration {
	n.mu.Lock()
	wait, why := n.pastOf(e.place()).rest(n.config.Clock.Now())
	if why != "" {
		e.dead = why
	}
	able := e.asked.Driver != "" // else whoever has the secrets publishes it again
	n.mu.Unlock()
	if wait > 0 || !able {
		return wait
	}
	began := n.config.Clock.Now()
	err := n.replace(e)
	switch {
	case err == nil:
		n.config.Logger.Info("volume's client replaced", "mount", e.Spec.ID, "driver", e.Driver, "target", e.Spec.Target, "took", n.config.Clock.Since(began))
		return 0
	case errors.Is(err, errNotOurs) || n.ctx.Err() != nil:
		return 0
	}
	n.config.Logger.Warn("volume's client cannot be replaced yet", "mount", e.Spec.ID, "driver", e.Driver, "target", e.Spec.Target, "error", err)
	n.mu.Lock()
	if e.dead != "" {
		e.dead = n.pastOf(e.place()).why + "; another one cannot be started yet: " + toCaller(err)
	}
	n.mu.Unlock()
	return min(firstRetry<<min(tries, 10), lastRetry)
}

// errNotOurs is a mount that somebody else has taken away, or with its container.
var errNotOurs = errors.New("the mount is not there any more")

// replace mounts e's volume again, in e's place.
func (n *Node) replace(e *entry) error {
	ctx, cancel := n.within()
	defer cancel()
	unlock, err := n.locks.Take(ctx, e.place())
	if err != nil {
		return err
	}
	defer unlock()
	n.mu.Lock()
	m := e.asked
	n.mu.Unlock()
	if n.at(e.place()) != e || !n.there(ctx, e) || !n.broken(e) {
		return errNotOurs
	}
	r, err := newRecord(m)
	if err != nil {
		return err
	}
	return n.publish(ctx, e.place(), r, m, e)
}

// toCaller is what the caller may read of err.
func toCaller(err error) string {
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return err.Error()
		}
	}
	return "the agent's log says why"
}
