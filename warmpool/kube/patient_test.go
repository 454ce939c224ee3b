package kube_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"github.com/sandgate-dev/sandgate/warmpool/kube"
)

// A watch that is asked for while nobody listens is answered soon after somebody does; a request of another kind is not waited with.
func TestAWatchWaitsForAServerThatIsAway(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().String()
	require.NoError(t, ln.Close())
	c, err := kube.Patient(&rest.Config{Host: addr})
	require.NoError(t, err)

	_, err = c.Get("http://" + addr + "/api/v1/namespaces/default/pods/x")
	require.ErrorContains(t, err, "refused")

	type answer struct {
		code int
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		res, err := c.Get("http://" + addr + "/api/v1/pods?watch=true&resourceVersion=7")
		if err != nil {
			got <- answer{err: err}
			return
		}
		_ = res.Body.Close()
		got <- answer{code: res.StatusCode}
	}()
	select {
	case a := <-got:
		t.Fatalf("answered by nobody: %+v", a)
	case <-time.After(100 * time.Millisecond):
	}
	ln, err = net.Listen("tcp", addr)
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	require.NoError(t, server.Listener.Close())
	server.Listener = ln
	server.Start()
	defer server.Close()
	require.Equal(t, answer{code: http.StatusTeapot}, <-got)
}
