package local

import "sync"

// traffic counts the claims and starts under way, so that work which can wait may wait for them.
type traffic struct {
	mu    sync.Mutex
	n     int
	quiet chan struct{} // closed when n gets to 0
}

func (t *traffic) enter() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == 0 {
		t.quiet = make(chan struct{})
	}
	t.n++
}

func (t *traffic) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n--; t.n == 0 {
		close(t.quiet)
	}
}

// calm is closed once nothing is under way, nil when nothing is.
func (t *traffic) calm() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == 0 {
		return nil
	}
	return t.quiet
}
