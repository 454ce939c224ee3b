package csi

import (
	"context"
	"sync"
)

// locks are a lock for each volume: a plugin may refuse a call while another one about the same volume is under way.
type locks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when it is given back
}

// take waits for the lock until ctx ends and returns what gives it back.
func (l *locks) take(ctx context.Context, handle string) (func(), error) {
	for {
		taken := l.try(handle)
		if taken == nil {
			return func() { l.give(handle) }, nil
		}
		select {
		case <-taken:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// try takes the lock, or returns what tells of its end.
func (l *locks) try(handle string) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if taken := l.held[handle]; taken != nil {
		return taken
	}
	if l.held == nil {
		l.held = map[string]chan struct{}{}
	}
	l.held[handle] = make(chan struct{})
	return nil
}

func (l *locks) give(handle string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.held[handle])
	delete(l.held, handle)
}
