package mount

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Patience bounds calls that the kernel holds as long as a server does not answer, whatever anybody's context says. The zero value is ready.
type Patience struct {
	mu   sync.Mutex
	held map[string]int // calls that were given up and have not returned, by what they are about
}

// mostHeld bounds the threads that the kernel holds: they could use up those that a process may have.
const mostHeld = 128

// ErrHeld is a call that was given up; ErrNotBegun, which is one as well, was not begun since an earlier one has not returned.
var (
	ErrHeld     = errors.New("no answer in time")
	ErrNotBegun = fmt.Errorf("%w: an earlier call has not returned", ErrHeld)
)

// Wait runs work, which is about key, for d or until ctx ends. After that its thread is left to the kernel, and late gets what comes of it
// after all; until then nothing else about key is begun.
func Wait[T any](ctx context.Context, p *Patience, key string, d time.Duration, work func() (T, error), late func(T)) (T, error) {
	var none, out T
	if !p.free(key) {
		return none, ErrNotBegun
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var err error
	done := make(chan struct{}) // its goroutine ends when the kernel lets it
	go func() {
		out, err = work()
		close(done)
	}()
	select {
	case <-done:
		return out, err
	case <-ctx.Done():
	}
	p.hold(key, 1)
	go func() {
		<-done
		if err == nil {
			late(out)
		}
		p.hold(key, -1)
	}()
	return none, ErrHeld
}

func (p *Patience) free(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held[key] == 0 && len(p.held) < mostHeld
}

func (p *Patience) hold(key string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil {
		p.held = map[string]int{}
	}
	if p.held[key] += n; p.held[key] == 0 {
		delete(p.held, key)
	}
}
