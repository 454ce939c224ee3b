package boot

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// Serve serves on listener until ctx ends. Requests under way may take drain to end then; streams of sandboxes are cut after it.
func Serve(ctx context.Context, server *http.Server, listener net.Listener, drain time.Duration) error {
	stopped := make(chan error, 1)
	go func() { stopped <- server.Serve(listener) }()
	select {
	case err := <-stopped:
		return err
	case <-ctx.Done():
	}
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
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
