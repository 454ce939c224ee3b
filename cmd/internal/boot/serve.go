package boot

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// Ending is how a server ends.
type Ending struct {
	// Linger is how long new requests are taken all the same: a Service leads here until its cluster has heard of the end.
	Linger time.Duration
	// Drain is how long requests under way may take to end after that; streams of sandboxes are cut then.
	Drain time.Duration
}

// Serve serves on listener until ctx ends, and then ends as end says.
func Serve(ctx context.Context, server *http.Server, listener net.Listener, end Ending) error {
	stopped := make(chan error, 1)
	go func() { stopped <- server.Serve(listener) }()
	select {
	case err := <-stopped:
		return err
	case <-ctx.Done():
	}
	late := time.NewTimer(end.Linger)
	defer late.Stop()
	select {
	case err := <-stopped:
		return err
	case <-late.C:
	}
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), end.Drain)
	defer cancel()
	err := server.Shutdown(within)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	if ended := <-stopped; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}
