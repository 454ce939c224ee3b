// Package process tells processes apart whose number may be given to another one, and waits for their end, whoever has started them. It knows
// neither clients nor volumes.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// ErrEnded is a process that has ended.
var ErrEnded = errors.New("the process has ended")

// Of names the process that has the number pid now. The error is ErrEnded when none has.
func Of(pid int) (mount.Process, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ESRCH):
		return mount.Process{}, ErrEnded
	case err != nil:
		return mount.Process{}, err
	}
	// The name, field 2, may hold anything; the fields after it begin behind the last parenthesis.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return mount.Process{}, fmt.Errorf("stat of process %d has %d fields", pid, len(fields))
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	return mount.Process{PID: pid, Start: start}, err
}

// Is says whether the process that has p's number now is p.
func Is(p mount.Process) bool {
	now, err := Of(p.PID)
	return err == nil && now == p
}

// Open returns a descriptor of p, for Over, Wait and Kill. The error is ErrEnded when p has ended and was waited for.
func Open(p mount.Process) (*os.File, error) {
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, ErrEnded
	}
	if err != nil {
		return nil, fmt.Errorf("find process: %w", err)
	}
	// The descriptor holds one process; its start time tells whether that is p.
	if !Is(p) {
		_ = unix.Close(fd)
		return nil, ErrEnded
	}
	return os.NewFile(uintptr(fd), "process"), nil
}

// Over says whether the process of f has ended.
func Over(f *os.File) (over bool) {
	if conn, err := f.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { over = readable(fd) })
	}
	return over
}

// Wait waits until the process of f ends, ctx ends or f is closed, and says whether it was the first. f must not block, as from Open.
func Wait(ctx context.Context, f *os.File) (over bool) {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = f.SetReadDeadline(time.Unix(1, 0))
		close(woken)
	})
	defer func() {
		if !stop() { // whoever waits for it again is not to be woken
			<-woken
			_ = f.SetReadDeadline(time.Time{})
		}
	}()
	_ = conn.Read(func(fd uintptr) bool {
		over = readable(fd)
		return over
	})
	return over || Over(f)
}

// Kill kills the process of f.
func Kill(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) }); err != nil {
		return err
	}
	if errors.Is(sent, unix.ESRCH) {
		return nil
	}
	return sent
}

func readable(pidfd uintptr) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
	return err == nil && n > 0
}
