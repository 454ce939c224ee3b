package mount

import (
	"context"
	"sync"
)

// Locks are a lock for each key, taken in the order in which it was asked for; one is there only while somebody wants it. The zero value is ready.
type Locks[K comparable] struct {
	mu   sync.Mutex
	held map[K]*lock
}

type lock struct {
	turn  chan struct{} // holds one token while it is taken
	users int           // who has it or waits
}

// Take waits for key's lock until ctx ends and returns what gives it back.
func (l *Locks[K]) Take(ctx context.Context, key K) (func(), error) {
	k := l.join(key)
	select {
	case k.turn <- struct{}{}:
		return func() { <-k.turn; l.leave(key, k) }, nil
	case <-ctx.Done():
		l.leave(key, k)
		return nil, context.Cause(ctx)
	}
}

func (l *Locks[K]) join(key K) *lock {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.held[key]
	if k == nil {
		k = &lock{turn: make(chan struct{}, 1)}
		if l.held == nil {
			l.held = map[K]*lock{}
		}
		l.held[key] = k
	}
	k.users++
	return k
}

func (l *Locks[K]) leave(key K, k *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.held, key)
	}
}
