package envd

import (
	"net/http"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// quiet is how long nobody must have asked for anything before memory is given back. A machine holds many sandboxes,
// most of them waiting.
const quiet = 3 * time.Second

// idle gives the daemon's memory back to the system when it has become idle.
type idle struct {
	mu     sync.Mutex
	busy   int
	closed bool
	timer  *time.Timer
}

func newIdle() *idle {
	return &idle{timer: time.AfterFunc(quiet, giveBack)}
}

// giveBack collects twice: buffers in a sync.Pool outlive one collection.
func giveBack() {
	runtime.GC()
	debug.FreeOSMemory()
}

func (i *idle) track(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.begin()
		defer i.end()
		next.ServeHTTP(w, r)
	})
}

func (i *idle) begin() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.busy++
	i.timer.Stop()
}

func (i *idle) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.busy--; i.busy == 0 && !i.closed {
		i.timer.Reset(quiet)
	}
}

func (i *idle) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	i.timer.Stop()
}
