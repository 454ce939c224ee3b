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

// perNamespace is how many of them work in one: a container that keeps its threads busy is not to keep others' volumes waiting.
const perNamespace = 3

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
	waiting = iota
	running
	finished
	abandoned // by its caller, while it ran
	withdrawn // by its caller, before
)

// job is work in a mount namespace. Its thread owns everything the work uses, since the caller may be gone before it ends.
type job struct {
	work  func() error
	undo  func() // reverses work when it succeeded too late; may be nil
	after func() // always, once the work has ended or cannot begin any more; may be nil
	state atomic.Int32
	left  chan struct{} // closed when it is withdrawn
	done  chan error    // has room for the outcome
}

// do works in the mount namespace ns, which it closes, on a thread of its own: one job after the other until next has none. Those that
// wait for the thread when gone is closed do not begin, and when left is there is none. The thread takes a place in own as well as one of all.
func (t *Threads) do(ns int, own chan struct{}, gone, left <-chan struct{}, next func() *job) {
	go func() {
		work := func(entered error) {
			closeFD(ns)
			for j := next(); j != nil; j = next() {
				j.run(t, entered)
			}
		}
		for i, slots := range []chan struct{}{own, t.slots} {
			select {
			case slots <- struct{}{}:
			case <-gone:
				if i > 0 {
					<-own
				}
				work(ErrGone)
				return
			case <-left:
				if i > 0 {
					<-own
				}
				closeFD(ns)
				return
			}
		}
		throwAway(func() {
			work(enter(ns))
			<-t.slots
			<-own
		})
	}()
}

// enter brings this thread into the mount namespace.
func enter(ns int) error {
	// Threads of one process share their root and working directory; one that does may not enter a mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare thread: %w", err)
	}
	unix.Umask(0) // this thread's only
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter mount namespace: %w", err)
	}
	return nil
}

func (j *job) isWithdrawn() bool { return j.state.Load() == withdrawn }

// run runs j, unless its caller has withdrawn it or the namespace could not be entered.
func (j *job) run(t *Threads, entered error) {
	if !j.state.CompareAndSwap(waiting, running) {
		return
	}
	err := entered
	if err == nil {
		err = j.work()
	}
	if !j.state.CompareAndSwap(running, finished) {
		if err == nil && j.undo != nil {
			j.undo()
		}
		t.stuck.Add(-1)
	}
	if j.after != nil {
		j.after()
	}
	j.done <- err
}

// wait returns when j is done, ctx ends or gone is closed, whichever is first.
func (j *job) wait(ctx context.Context, t *Threads, gone <-chan struct{}) error {
	var late, stuck error
	select {
	case err := <-j.done:
		return err
	case <-ctx.Done():
		late = fmt.Errorf("wait for a thread, %d of %d are stuck: %w", t.Stuck(), cap(t.slots), ctx.Err())
		stuck = fmt.Errorf("%w: %w", ErrStuck, ctx.Err())
	case <-gone:
		late, stuck = ErrGone, ErrGone
	}
	if j.state.CompareAndSwap(waiting, withdrawn) { // the thread that it waits for may never be free
		close(j.left)
		if j.after != nil {
			j.after()
		}
		return late
	}
	t.stuck.Add(1)
	if j.state.CompareAndSwap(running, abandoned) {
		return stuck
	}
	t.stuck.Add(-1)
	return <-j.done
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
