package node

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

const clientEnded = "the client that serves this volume has ended"

// watch notices the end of e's client. The goroutine ends with the client or with unwatch; Close waits for it. Node.mu is held.
func (n *Node) watch(e *entry) {
	f, err := openProcess(e.Client)
	if err != nil {
		e.dead = clientEnded
		return
	}
	e.process = f
	n.watchers.Go(func() {
		if ended(f) {
			n.died(e)
		}
	})
}

// unwatch is called with Node.mu held.
func (e *entry) unwatch() {
	if e.process != nil {
		_ = e.process.Close()
		e.process = nil
	}
}

// lookTimeout bounds the look at a container after a client has ended.
const lookTimeout = 2 * time.Second

// died marks e's mount as dead and tells who wants to know. A client that ended because nobody has its mount any more did as it
// should.
func (n *Node) died(e *entry) {
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	if !n.crashed(ctx, e) {
		return
	}
	n.mu.Lock()
	known := n.live[e.place()] == e && e.dead == "" && e.process != nil
	if known {
		e.dead = clientEnded
		e.unwatch()
	}
	n.mu.Unlock()
	if !known {
		return
	}
	n.config.Logger.Warn("volume's client ended", "mount", e.Spec.ID, "driver", e.Driver, "target", e.Spec.Target, "pid", e.Client.PID)
	if n.config.Died != nil {
		n.config.Died(e.view(Failed, clientEnded))
	}
}

// crashed says whether e's client has ended while its mount is in the container.
func (n *Node) crashed(ctx context.Context, e *entry) bool {
	if e.Client.PID == 0 || alive(e.Client) {
		return false
	}
	return n.there(ctx, e)
}

// openProcess returns a descriptor of p that becomes readable when p ends.
func openProcess(p mount.Process) (*os.File, error) {
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("find client: %w", err)
	}
	// The descriptor holds one process; its start time tells whether that is p.
	if now, err := startTime(p.PID); err != nil || now != p.Start {
		_ = unix.Close(fd)
		return nil, errors.Join(errors.New("the client has ended"), err)
	}
	return os.NewFile(uintptr(fd), "client"), nil
}

// ended waits until the process of f ends; false when f was closed before.
func ended(f *os.File) bool {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	over := false
	err = conn.Read(func(fd uintptr) bool {
		over = readable(int(fd))
		return over
	})
	return over && err == nil
}

func readable(fd int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n > 0
}

// alive says whether p is running.
func alive(p mount.Process) bool {
	f, err := openProcess(p)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	return !readable(int(f.Fd()))
}

// startTime is field 22 of a process's stat: ticks since boot.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The name, field 2, may hold anything; the fields after it begin behind the last parenthesis.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("stat of process %d has %d fields", pid, len(fields))
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// explain asks the driver why a client does not serve its volume; err when it does not know either.
func explain(ctx context.Context, d Driver, client mount.Process, err error) error {
	if x, ok := d.(Explainer); ok && client.PID != 0 {
		if reason := x.Explain(ctx, client); reason != nil {
			return reason
		}
	}
	return err
}
