// Package process watches and ends processes that are not children of this one, by pidfd and start time, so that a reused
// PID is never taken for the process that had it before. It does not know what the processes are.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// ErrGone says that the process has ended, or that its PID belongs to another one now.
var ErrGone = errors.New("process has ended")

// Identify gives the living process that has pid now its unmistakable name.
func Identify(pid int) (mount.Process, error) {
	start, state, err := stat(pid)
	if err != nil {
		return mount.Process{}, err
	}
	if state == 'Z' || state == 'X' {
		return mount.Process{}, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	return mount.Process{PID: pid, Start: start}, nil
}

// stat reads the start time and the state letter of a process.
func stat(pid int) (uint64, byte, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			return 0, 0, fmt.Errorf("process %d: %w", pid, ErrGone)
		}
		return 0, 0, fmt.Errorf("process %d: %w", pid, err)
	}
	// The second field is the command in parentheses and may hold anything; the fields after it are plain.
	_, after, ok := strings.Cut(string(text), ") ")
	if i := strings.LastIndex(string(text), ") "); i >= 0 {
		after = string(text)[i+2:]
	}
	fields := strings.Fields(after)
	if !ok || len(fields) < 20 {
		return 0, 0, fmt.Errorf("process %d: its stat has %d fields", pid, len(fields))
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("process %d: start time: %w", pid, err)
	}
	return start, fields[0][0], nil
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
	raw, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil, fmt.Errorf("process %d: %w", p.PID, ErrGone)
		}
		return nil, fmt.Errorf("process %d: pidfd: %w", p.PID, err)
	}
	// The pidfd pins whatever has the PID now; only then is it compared.
	fd := os.NewFile(uintptr(raw), "pidfd")
	now, err := Identify(p.PID)
	if err == nil && now.Start != p.Start {
		err = fmt.Errorf("process %d: %w", p.PID, ErrGone)
	}
	if err != nil {
		_ = fd.Close()
		return nil, err
	}
	w := &Watch{Process: p, gone: make(chan struct{}), done: make(chan struct{}), fd: fd}
	go w.wait()
	return w, nil
}

// wait parks in the runtime's poller, which is one epoll for all watches.
func (w *Watch) wait() {
	defer close(w.done)
	conn, err := w.fd.SyscallConn()
	if err != nil {
		return
	}
	err = conn.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return err == nil && n > 0
	})
	if err == nil {
		close(w.gone)
	}
}

// Gone is closed when the process has ended. It stays open after Close of a living one.
func (w *Watch) Gone() <-chan struct{} { return w.gone }

// Kill sends SIGKILL and waits until the process has ended.
func (w *Watch) Kill(ctx context.Context) error {
	conn, err := w.fd.SyscallConn()
	if err != nil {
		return fmt.Errorf("process %d: %w", w.Process.PID, err)
	}
	var sent error
	if err := conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) }); err != nil {
		return fmt.Errorf("process %d: %w", w.Process.PID, err)
	}
	if sent != nil && !errors.Is(sent, unix.ESRCH) {
		return fmt.Errorf("process %d: kill: %w", w.Process.PID, sent)
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
