package boot_test

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/cmd/internal/boot"
)

// serving is a server that ends as end says once stop is called, and what came of it.
func serving(t *testing.T, end boot.Ending) (server *http.Server, url string, stop func(), ended <-chan error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	server = &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Minute}
	out := make(chan error, 1)
	go func() { out <- boot.Serve(ctx, server, listener, end) }()
	t.Cleanup(func() { _ = server.Close() })
	return server, "http://" + listener.Addr().String(), stop, out
}

// fresh asks on a connection of its own, as those do whom a Service still leads here.
func fresh(url string) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get(url)
	if err == nil {
		_ = res.Body.Close()
	}
	return err
}

func TestNewRequestsAreTakenUntilTheServiceLeadsElsewhere(t *testing.T) {
	server, url, stop, ended := serving(t, boot.Ending{Linger: time.Hour, Drain: time.Minute})
	require.NoError(t, fresh(url))
	stop()
	for range 20 {
		require.NoError(t, fresh(url))
	}
	require.NoError(t, server.Close())
	require.ErrorIs(t, <-ended, http.ErrServerClosed)
}

func TestWithoutLingeringItEndsAtOnce(t *testing.T) {
	_, url, stop, ended := serving(t, boot.Ending{Drain: time.Minute})
	require.NoError(t, fresh(url))
	stop()
	require.NoError(t, <-ended)
	require.Error(t, fresh(url))
}
