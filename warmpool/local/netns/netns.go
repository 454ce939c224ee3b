// Package netns is the way into a sandbox's network namespace: connections to its ports, routes that bar what it must not
// reach, and a user-mode uplink. It does not know what listens there.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Namespace pins a network namespace, so that it can be entered while its processes come and go. Safe for concurrent use.
type Namespace struct {
	file *os.File
	once sync.Once
}

// Of opens the network namespace of a process. The caller makes sure that the PID is still the process he means.
func Of(pid int) (*Namespace, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/net")
	if err != nil {
		return nil, fmt.Errorf("network namespace of process %d: %w", pid, err)
	}
	n := &Namespace{file: f}
	var mine, theirs unix.Stat_t
	if err := errors.Join(unix.Stat("/proc/self/ns/net", &mine), unix.Fstat(int(f.Fd()), &theirs)); err != nil {
		n.Close()
		return nil, fmt.Errorf("network namespace of process %d: %w", pid, err)
	}
	if mine.Ino == theirs.Ino && mine.Dev == theirs.Dev {
		n.Close()
		return nil, fmt.Errorf("process %d shares this machine's network namespace; it is no sandbox", pid)
	}
	return n, nil
}

// Close lets go of the namespace. Connections made through it live on.
func (n *Namespace) Close() { n.once.Do(func() { _ = n.file.Close() }) }

// Dial connects to a TCP port on the namespace's loopback, IPv4 first, then IPv6.
func (n *Namespace) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	conn, err := n.connect(ctx, unix.AF_INET, &unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}})
	if err == nil || !errors.Is(err, unix.ECONNREFUSED) {
		return conn, err
	}
	six, err6 := n.connect(ctx, unix.AF_INET6, &unix.SockaddrInet6{Port: int(port), Addr: [16]byte{15: 1}})
	if err6 != nil {
		return nil, err
	}
	return six, nil
}

func (n *Namespace) connect(ctx context.Context, family int, to unix.Sockaddr) (net.Conn, error) {
	fd, err := n.socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	// A socket stays in the namespace it was made in; from here on any thread may use it.
	f := os.NewFile(uintptr(fd), "tcp")
	defer func() { _ = f.Close() }() // net.FileConn has its own descriptor
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := unix.Connect(fd, to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return nil, fmt.Errorf("dial: %w", err)
	}
	if err := established(f); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("dial: %w", err)
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	return conn, nil
}

// established waits, in the runtime's poller, until a connecting socket is connected or has failed.
func established(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			failed = err
		case code != 0:
			failed = unix.Errno(code)
		default:
			_, err := unix.Getpeername(int(fd))
			return err == nil // ENOTCONN: not yet
		}
		return true
	})
	return errors.Join(err, failed)
}

// socket makes a non-blocking socket inside the namespace.
func (n *Namespace) socket(family, kind, protocol int) (int, error) {
	var fd int
	err := n.inside(func() (err error) {
		fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
		return err
	})
	return fd, err
}

// inside runs f on a thread of its own that has entered the namespace and is thrown away afterwards: it never comes back to
// run anything else there by mistake.
func (n *Namespace) inside(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		raw, err := n.file.SyscallConn()
		if err != nil {
			done <- err
			return
		}
		var entered error
		if err := raw.Control(func(fd uintptr) { entered = unix.Setns(int(fd), unix.CLONE_NEWNET) }); err != nil {
			entered = err
		}
		if entered != nil {
			done <- fmt.Errorf("enter network namespace: %w", entered)
			return
		}
		done <- f()
	}()
	return <-done
}
