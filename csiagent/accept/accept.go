// Package accept takes connections for servers that must not end because of who connects.
package accept

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"
)

// ErrOver is that a server's context has ended.
var ErrOver = errors.New("the server is to end")

// Next is the next connection of l. It waits for what passes: somebody took all descriptors, or left early. Once ctx has ended, and l was
// closed by who ended it, the error is ErrOver.
func Next(ctx context.Context, l net.Listener) (net.Conn, error) {
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = c.Close()
			}
			return nil, ErrOver
		case !passing(err):
			return c, err
		}
		Rest(ctx)
	}
}

func passing(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED) ||
		errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

// Rest returns in a moment, so that nobody keeps a server busy by what it refuses, or when ctx ends.
func Rest(ctx context.Context) {
	wait := time.NewTimer(100 * time.Millisecond)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
	}
}
