//go:build linux

package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"
)

// How long Keep waits before it tries again.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// Send hands this process's mount namespace over at socket and holds the connection. It returns nil when an accepted hand-over
// ended, and an error, ErrRefused among others, when there was none.
func Send(ctx context.Context, socket string) error { return send(ctx, socket, func() {}) }

func send(ctx context.Context, socket string, told func()) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unixpacket", socket)
	if err != nil {
		return fmt.Errorf("hand over: %w", err)
	}
	c := conn.(*net.UnixConn)
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	switch err := give(c); {
	case errors.Is(err, unix.EPIPE): // closed before it was looked at: there is another one
		return errors.Join(ErrRefused, ctx.Err())
	case err != nil:
		return fmt.Errorf("hand over: %w", err)
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(c, answer); err != nil || answer[0] != accepted {
		return errors.Join(ErrRefused, ctx.Err())
	}
	told()
	_, _ = c.Read(answer) // until the other side closes
	return nil
}

// give sends the one message.
func give(c *net.UnixConn) error {
	ns, err := os.OpenFile("/proc/self/ns/mnt", os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	_, _, err = c.WriteMsgUnix([]byte{0}, unix.UnixRights(int(ns.Fd())), nil)
	return err
}

// Keep hands over again and again until ctx ends, so that an agent that restarts, or starts late, gets its namespace. It waits
// between tries, longer each time until one is accepted, and calls told for each that is.
func Keep(ctx context.Context, socket string, clk clock.Clock, told func()) {
	pause := firstPause
	for {
		if err := send(ctx, socket, told); err == nil {
			pause = firstPause
		}
		wait := clk.NewTimer(pause)
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C():
		}
		pause = min(2*pause, lastPause)
	}
}
