// Package process watches and ends processes that are not children of this one, by pidfd and start time, so that a reused
// PID is never taken for the process that had it before. It does not know what the processes are.
package process

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/mount/process"
)

// ErrGone says that the process has ended, or that its PID belongs to another one now.
var ErrGone = process.ErrEnded

// Identify gives the living process that has pid now its unmistakable name.
func Identify(pid int) (mount.Process, error) {
	p, err := process.Of(pid)
	if err != nil {
		return mount.Process{}, fmt.Errorf("process %d: %w", pid, err)
	}
	fd, err := open(p)
	if err != nil {
		return mount.Process{}, err
	}
	_ = fd.Close()
	return p, nil
}

// open is the pidfd of p, if p lives: one that has ended keeps its number until it was waited for.
func open(p mount.Process) (*os.File, error) {
	fd, err := process.Open(p)
	if err == nil && process.Over(fd) {
		_ = fd.Close()
		err = ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", p.PID, err)
	}
	return fd, nil
}

// Watch is an open pidfd of a process that was alive when it was opened.
type Watch struct {
	Process mount.Process
	gone    chan struct{}
	done    chan struct{}
	once    sync.Once
	fd      *os.File
}

// Open opens p for watching and killing. ErrGone when it has ended.
func Open(p mount.Process) (*Watch, error) {
	fd, err := open(p)
	if err != nil {
		return nil, err
	}
	w := &Watch{Process: p, gone: make(chan struct{}), done: make(chan struct{}), fd: fd}
	go w.wait()
	return w, nil
}

// wait parks in the runtime's poller, which is one epoll for all watches.
func (w *Watch) wait() {
	defer close(w.done)
	if process.Wait(context.Background(), w.fd) {
		close(w.gone)
	}
}

// Gone is closed when the process has ended. It stays open after Close of a living one.
func (w *Watch) Gone() <-chan struct{} { return w.gone }

// Kill sends SIGKILL and waits until the process has ended.
func (w *Watch) Kill(ctx context.Context) error {
	if err := process.Kill(w.fd); err != nil {
		return fmt.Errorf("process %d: kill: %w", w.Process.PID, err)
	}
	select {
	case <-w.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("process %d does not end: %w", w.Process.PID, ctx.Err())
	}
}

// Close stops watching; the process lives on.
func (w *Watch) Close() {
	w.once.Do(func() { _ = w.fd.Close() })
	<-w.done
}
