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

// watch notices the end of e's client, of which process is the descriptor. The goroutine ends with the client or with unwatch; Close waits
// for it. Node.mu is held.
func (n *Node) watch(e *entry, process *os.File) {
	e.process = process
	n.watchers.Go(func() {
		if ended(process) {
			n.died(e)
		}
	})
}

// follow watches e's client when nobody could tell of it before.
func (n *Node) follow(e *entry) {
	lost := func() bool {
		return e.Client.PID != 0 && e.process == nil && e.dead == "" && e.quit != nil && !n.closed
	}
	n.mu.Lock()
	needed := lost()
	n.mu.Unlock()
	if !needed {
		return
	}
	process, err := n.open(n.ctx, e.Driver, e.Client)
	n.mu.Lock()
	defer n.mu.Unlock()
	if lost() {
		n.seen(e, process, err)
	} else {
		_ = process.Close()
	}
}

// unwatch is called with Node.mu held.
func (e *entry) unwatch() {
	if e.process != nil {
		_ = e.process.Close()
		e.process = nil
	}
	if e.quit != nil {
		close(e.quit)
		e.quit = nil
	}
}

// die is called with Node.mu held.
func (e *entry) die(why string) {
	if e.process != nil {
		_ = e.process.Close()
		e.process = nil
	}
	if e.dead == "" && e.ended != nil {
		close(e.ended)
	}
	e.dead = why
}

// lookTimeout bounds the look at a container after a client has ended.
const lookTimeout = 2 * time.Second

// died marks e's mount as dead and tells who wants to know. A client that ended because nobody has its mount any more did as it
// should.
func (n *Node) died(e *entry) {
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	if !n.there(ctx, e) {
		return
	}
	why := clientEnded
	if err := explain(ctx, n.config.Drivers[e.Driver], e.Client, nil); err != nil {
		why += ": " + err.Error()
	}
	n.mu.Lock()
	known := n.live[e.place()] == e && e.dead == "" && e.process != nil
	if known {
		n.pastOf(e.place()).died(n.config.Clock.Now(), why)
		e.die(why)
	}
	n.mu.Unlock()
	if !known {
		return
	}
	n.config.Logger.Warn("volume's client ended", "mount", e.Spec.ID, "driver", e.Driver, "target", e.Spec.Target, "pid", e.Client.PID, "why", why)
	if n.config.Died != nil {
		n.config.Died(e.view(VerdictDead, why))
	}
}

// crashed says whether e's client has ended while its mount is in the container.
func (n *Node) crashed(ctx context.Context, e *entry) bool {
	return e.Client.PID != 0 && !n.serves(ctx, e) && n.there(ctx, e)
}

// serves says whether e's client runs.
func (n *Node) serves(ctx context.Context, e *entry) bool {
	n.mu.Lock()
	if e.process != nil {
		defer n.mu.Unlock()
		return !readable(e.process)
	}
	n.mu.Unlock()
	return n.alive(ctx, e.Driver, e.Client)
}

// alive says whether a driver's client runs. One of which nobody can tell does: whether it answers, a read says.
func (n *Node) alive(ctx context.Context, driver string, p mount.Process) bool {
	f, err := n.open(ctx, driver, p)
	if err != nil {
		return errors.Is(err, context.DeadlineExceeded)
	}
	defer func() { _ = f.Close() }()
	return !readable(f)
}

// open returns a descriptor of a driver's client that becomes readable when it ends.
func (n *Node) open(ctx context.Context, driver string, p mount.Process) (*os.File, error) {
	if o, ok := n.config.Drivers[driver].(Opener); ok {
		return o.Open(ctx, p)
	}
	return openProcess(p)
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
		over = ready(int(fd))
		return over
	})
	return over && err == nil
}

func ready(fd int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n > 0
}

// readable says whether the process of f has ended, of which f is a descriptor.
func readable(f *os.File) (over bool) {
	conn, err := f.SyscallConn()
	if err != nil {
		return true
	}
	err = conn.Control(func(fd uintptr) { over = ready(int(fd)) })
	return over || err != nil
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
