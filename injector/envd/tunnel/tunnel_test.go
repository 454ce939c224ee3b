package tunnel_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/injector/envd"
	"github.com/sandgate-dev/sandgate/injector/envd/tunnel"
)

func dial(t *testing.T, server *httptest.Server) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	return c
}

func daemon(t *testing.T) *httptest.Server {
	t.Helper()
	d, err := envd.New(envd.Config{})
	require.NoError(t, err)
	server := httptest.NewServer(d)
	t.Cleanup(server.Close)
	return server
}

// silent keeps a port of 127.0.0.1 from everybody, and does not listen at it; false when somebody has it.
func silent(t *testing.T, port uint16) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}})
	if errors.Is(err, unix.EADDRINUSE) {
		return false
	}
	require.NoError(t, err)
	return true
}

// speaker greets first, as many protocols do, and then says everything again until its peer has ended.
func speaker(t *testing.T, network, address string) uint16 {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), network, address)
	if err != nil {
		t.Skip("no such address here: ", err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello\n")
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func TestAServiceOnTheLoopbackIsReached(t *testing.T) {
	server := daemon(t)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		port := speaker(t, "tcp", address)
		for address == "[::1]:0" && !silent(t, port) { // another program's there would be taken for it
			port = speaker(t, "tcp", address)
		}
		c, err := tunnel.Through(t.Context(), dial(t, server), port, "")
		require.NoError(t, err)
		_, err = io.WriteString(c, "again")
		require.NoError(t, err)
		require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
		got, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, "hello\nagain", string(got))
		require.NoError(t, c.Close())
	}
}

func TestAPortThatNobodyListensOnIsRefused(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	require.NoError(t, l.Close())
	_, err = tunnel.Through(t.Context(), dial(t, daemon(t)), port, "")
	require.ErrorIs(t, err, tunnel.ErrRefused)
}

func TestOnlyTheTokensHolderIsLetThrough(t *testing.T) {
	server := daemon(t)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/init", strings.NewReader(`{"accessToken":"secret"}`))
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusNoContent, res.StatusCode)
	port := speaker(t, "tcp", "127.0.0.1:0")
	_, err = tunnel.Through(t.Context(), dial(t, server), port, "guessed")
	require.ErrorIs(t, err, tunnel.ErrRefused)
	c, err := tunnel.Through(t.Context(), dial(t, server), port, "secret")
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

func TestOnlyPortsOfTheLoopbackAreMeant(t *testing.T) {
	handler := tunnel.Or(http.NotFoundHandler())
	for _, host := range []string{"example.com:80", "10.0.0.1:80", "localhost:0", "localhost:x", "localhost", "localhost:65536", "[::1]:80"} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, &http.Request{Method: http.MethodConnect, Host: host})
		require.Equal(t, http.StatusBadRequest, w.Code, host)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	require.Equal(t, http.StatusNotFound, w.Code)
}

func TestADaemonThatDoesNotAnswerIsGivenUp(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := tunnel.Through(ctx, here, 80, "")
	require.Error(t, err)
	_, err = here.Write([]byte("x"))
	require.ErrorIs(t, err, io.ErrClosedPipe)
}
