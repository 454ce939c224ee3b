//go:build linux

package attach

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// DefaultThreads is how many threads of one process work in foreign namespaces at once.
const DefaultThreads = 8

// Threads bounds the threads of this process that work in foreign mount namespaces. One value serves all namespaces.
type Threads struct {
	slots chan struct{}
	stuck atomic.Int64
}

// NewThreads returns a bound of n threads.
func NewThreads(n int) *Threads { return &Threads{slots: make(chan struct{}, n)} }

// Stuck is how many threads the kernel holds although their callers have given up. Each keeps its slot until it returns.
func (t *Threads) Stuck() int { return int(t.stuck.Load()) }

// The states of a job: its caller and its thread agree on who of them ended it.
const (
	running = iota
	finished
	abandoned
)

// job is work in the mount namespace ns. Its thread owns everything the work uses, since the caller may be gone before it ends.
type job struct {
	ns    int           // closed by the thread
	turn  chan struct{} // given back by the thread; nil when the work needs none
	work  func() error
	undo  func() // reverses work when it succeeded too late
	after func() // always, at the thread's end
}

// do runs j on a thread of its own. It returns when the work is done, ctx ends or gone is closed, whichever is first.
func (t *Threads) do(ctx context.Context, gone <-chan struct{}, j job) error {
	var state atomic.Int32
	done := make(chan error, 1)
	throwAway(func() {
		err := j.run()
		if !state.CompareAndSwap(running, finished) {
			if err == nil && j.undo != nil {
				j.undo()
			}
			t.stuck.Add(-1)
		}
		j.end()
		<-t.slots
		done <- err
	})
	var why error
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		why = fmt.Errorf("%w: %w", ErrStuck, ctx.Err())
	case <-gone:
		why = ErrGone
	}
	t.stuck.Add(1)
	if state.CompareAndSwap(running, abandoned) {
		return why
	}
	t.stuck.Add(-1)
	return <-done
}

func (j job) run() error {
	// Threads of one process share their root and working directory; one that does may not enter a mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare thread: %w", err)
	}
	unix.Umask(0) // this thread's only
	if err := unix.Setns(j.ns, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter mount namespace: %w", err)
	}
	return j.work()
}

func (j job) end() {
	if j.after != nil {
		j.after()
	}
	closeFD(j.ns)
	if j.turn != nil {
		<-j.turn
	}
}

// throwAway runs f on an OS thread that ends with it, so that nothing else ever runs where f has been. The process's first
// thread cannot end and its namespace is what /proc shows of the process, so f never runs there.
func throwAway(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		started := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(started)
			f()
		}()
		<-started
		runtime.UnlockOSThread()
	}()
}
