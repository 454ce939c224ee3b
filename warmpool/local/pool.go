package local

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/sandgate-dev/sandgate/warmpool"
)

const (
	firstPause = 200 * time.Millisecond
	lastPause  = time.Minute
	// failing is after how many failures in a row a pool tells waiting callers so.
	failing = 3
	// infant is how young stock must die for its template to be suspected.
	infant = 10 * time.Second
)

// pool is the stock of one set and those who wait for it. Guarded by Backend.mu.
type pool struct {
	plan
	updated  time.Time
	removed  bool // its set is gone; it is kept while sandboxes of it are being made
	stock    []*sandbox
	making   int
	waiters  []*waiter
	failures int
	deaths   int // of young stock, since one grew up
	retryAt  time.Time
	reason   string
}

// waiter is a claim without a sandbox, first come first served.
type waiter struct {
	claim  warmpool.Claim
	answer chan answer // holds one
}

type answer struct {
	sandbox *sandbox
	err     error
}

// pick takes a random sandbox of stock; the order of what remains means nothing. Dead ones are left to those who watch them.
func (p *pool) pick() *sandbox {
	for len(p.stock) > 0 {
		i := rand.IntN(len(p.stock))
		s := p.stock[i]
		p.cut(i)
		select {
		case <-s.box.Gone():
		default:
			return s
		}
	}
	return nil
}

func (p *pool) cut(i int) {
	last := len(p.stock) - 1
	p.stock[i] = p.stock[last]
	p.stock[last] = nil
	p.stock = p.stock[:last]
}

// drop takes s out of stock; false when it is not there.
func (p *pool) drop(s *sandbox) bool {
	for i := range p.stock {
		if p.stock[i] == s {
			p.cut(i)
			return true
		}
	}
	return false
}

// leave takes a waiter out of the queue; false when it has its answer already.
func (p *pool) leave(w *waiter) bool {
	for i := range p.waiters {
		if p.waiters[i] == w {
			p.waiters = append(p.waiters[:i], p.waiters[i+1:]...)
			return true
		}
	}
	return false
}

// wanted is how many sandboxes should be begun now.
func (p *pool) wanted(now time.Time) int {
	if p.removed || now.Before(p.retryAt) {
		return 0
	}
	n := len(p.waiters) + max(0, p.replicas-len(p.stock)) - p.making
	if p.failures > 0 {
		n = min(n, 1-p.making) // one at a time until one succeeds
	}
	return max(0, n)
}

// failed notes that a sandbox could not be made and returns who is to be told.
func (p *pool) failed(now time.Time, err error) []*waiter {
	p.failures++
	p.retryAt = now.Add(jitter(min(lastPause, firstPause<<min(p.failures-1, 16))))
	p.reason = fmt.Sprintf("sandboxes of this template cannot be made (%d in a row, next try at %s): %s",
		p.failures, p.retryAt.UTC().Format(time.RFC3339), err)
	if p.failures < failing {
		return nil
	}
	told := p.waiters
	p.waiters = nil
	return told
}

func (p *pool) succeeded() {
	p.failures, p.deaths, p.retryAt, p.reason = 0, 0, time.Time{}, ""
}

// grown clears a pool whose young stock has died before, when some of it has outlived that age; else it says when to look again.
func (p *pool) grown(now time.Time) (time.Time, bool) {
	if p.deaths == 0 || len(p.stock) == 0 {
		return time.Time{}, false
	}
	at := p.stock[0].made.Add(infant)
	for _, s := range p.stock {
		if now.Sub(s.made) >= infant {
			p.succeeded()
			return time.Time{}, false
		}
	}
	return at, true
}

// unavailable is what callers hear of a failing pool. The cause is in the log and in the template's reason.
func (p *pool) unavailable(now time.Time) error {
	return &warmpool.Error{
		Code: warmpool.Unavailable, RetryAfter: max(time.Second, p.retryAt.Sub(now).Round(time.Second)),
		Message: fmt.Sprintf("sandboxes of template '%s' cannot be made at the moment; the operator finds the reason with the template", p.name),
	}
}
