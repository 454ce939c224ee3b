package node

import (
	"context"
	"sync"
)

// locks are a lock for each place; one is there only while somebody wants it.
type locks struct {
	mu   sync.Mutex
	held map[place]*lock
}

type lock struct {
	turn  chan struct{} // holds one token while it is taken
	users int           // who has it or waits
}

// take waits for p's lock until ctx ends and returns what gives it back.
func (l *locks) take(ctx context.Context, p place) (func(), error) {
	k := l.join(p)
	select {
	case k.turn <- struct{}{}:
		return func() { <-k.turn; l.leave(p, k) }, nil
	case <-ctx.Done():
		l.leave(p, k)
		return nil, context.Cause(ctx)
	}
}

func (l *locks) join(p place) *lock {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.held[p]
	if k == nil {
		k = &lock{turn: make(chan struct{}, 1)}
		if l.held == nil {
			l.held = map[place]*lock{}
		}
		l.held[p] = k
	}
	k.users++
	return k
}

func (l *locks) leave(p place, k *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.held, p)
	}
}
