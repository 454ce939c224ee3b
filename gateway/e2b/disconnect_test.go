package e2b_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/utils/clock"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/gateway/auth"
	"github.com/sandgate-dev/sandgate/gateway/e2b"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest"
)

var _ e2b.Authenticator = (*auth.Keys)(nil)

func TestACallerWhoHangsUpLeavesNoSandbox(t *testing.T) {
	w := newWorld(t)
	ctx, hangUp := context.WithCancel(t.Context())
	w.pool.OnStart = func(ctx context.Context, _ warmpool.ID, _ warmpool.Start) error {
		hangUp()
		<-ctx.Done()
		return ctx.Err()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+"/v2/sandboxes", strings.NewReader(`{"templateID":"base"}`))
	require.NoError(t, err)
	req.Header.Set("X-Api-Key", aliceKey)
	res, err := http.DefaultClient.Do(req)
	if err == nil {
		_ = res.Body.Close()
	}
	require.ErrorIs(t, err, context.Canceled)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		assert.Zero(c, w.pool.Claimed())
		assert.Contains(c, w.log.String(), `"status":499`)
	}, 20*time.Second, time.Millisecond)
}

// deafWriter is a caller whose connection breaks as the answer is written.
type deafWriter struct{ *httptest.ResponseRecorder }

func (deafWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestAnAnswerThatCannotBeWrittenEndsItsSandbox(t *testing.T) {
	pool := warmpooltest.NewMemory(clock.RealClock{}, warmpool.Template{Name: "base", Desired: 1, EnvdVersion: "0.6.0"})
	svc, err := gateway.New(gateway.Config{Backend: pool, Reader: warmpooltest.Volumes{}, Policy: mount.DefaultPolicy(), Limits: gateway.DefaultLimits()})
	require.NoError(t, err)
	h, err := e2b.New(svc, keys{"k": {Team: "t"}}, e2b.Config{})
	require.NoError(t, err)
	req := httptest.NewRequest(http.MethodPost, "/v2/sandboxes", strings.NewReader(`{"templateID":"base"}`))
	req.Header.Set("X-Api-Key", "k")
	h.ServeHTTP(deafWriter{httptest.NewRecorder()}, req)
	require.Zero(t, pool.Claimed())
	tpl, err := pool.Template(t.Context(), "base")
	require.NoError(t, err)
	require.Zero(t, tpl.Ready, "it was claimed before")
}

func TestABodyThatNeverComesIsNotWaitedForLong(t *testing.T) {
	pool := warmpooltest.NewMemory(clock.RealClock{}, warmpool.Template{Name: "base", Desired: 1, EnvdVersion: "0.6.0"})
	svc, err := gateway.New(gateway.Config{Backend: pool, Reader: warmpooltest.Volumes{}, Policy: mount.DefaultPolicy(), Limits: gateway.DefaultLimits()})
	require.NoError(t, err)
	h, err := e2b.New(svc, keys{"k": {Team: "t"}}, e2b.Config{BodyTime: 50 * time.Millisecond})
	require.NoError(t, err)
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	for name, c := range map[string]struct {
		head string
		want int
	}{
		"of a length":        {"POST /v2/sandboxes HTTP/1.1\r\nX-Api-Key: k\r\nContent-Length: 100\r\n\r\n{", 408},
		"in pieces":          {"POST /v2/sandboxes HTTP/1.1\r\nX-Api-Key: k\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", 408},
		"without a key":      {"POST /v2/sandboxes HTTP/1.1\r\nContent-Length: 100\r\n\r\n{", 401},
		"to no route":        {"POST /nothing HTTP/1.1\r\nContent-Length: 100\r\n\r\n{", 404},
		"where none is read": {"POST /volumes HTTP/1.1\r\nX-Api-Key: k\r\nContent-Length: 100\r\n\r\n{", 501},
	} {
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
		_, err = io.WriteString(conn, strings.Replace(c.head, "HTTP/1.1\r\n", "HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n", 1))
		require.NoError(t, err)
		reader := bufio.NewReader(conn)
		res, err := http.ReadResponse(reader, nil)
		require.NoError(t, err, name)
		require.Equal(t, c.want, res.StatusCode, name)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err, name)
		_, err = reader.ReadByte()
		require.ErrorIs(t, err, io.EOF, "%s: the connection is closed", name)
	}
	require.Zero(t, pool.Claimed())
}

func TestABodyThatCameInTimeHurriesNobody(t *testing.T) {
	pool := warmpooltest.NewMemory(clock.RealClock{}, warmpool.Template{Name: "base", Desired: 1, EnvdVersion: "0.6.0"})
	const bodyTime = time.Second // a busy machine reads it in time, too
	pool.OnStart = func(ctx context.Context, _ warmpool.ID, _ warmpool.Start) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(bodyTime + bodyTime/4):
			return nil
		}
	}
	svc, err := gateway.New(gateway.Config{Backend: pool, Reader: warmpooltest.Volumes{}, Policy: mount.DefaultPolicy(), Limits: gateway.DefaultLimits()})
	require.NoError(t, err)
	h, err := e2b.New(svc, keys{"k": {Team: "t"}}, e2b.Config{BodyTime: bodyTime})
	require.NoError(t, err)
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+"/v2/sandboxes", strings.NewReader(`{"templateID":"base"}`))
	require.NoError(t, err)
	req.Header.Set("X-Api-Key", "k")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	require.Equal(t, http.StatusCreated, res.StatusCode)
}

func TestWithoutADomainHostNamesLeadToThisMachine(t *testing.T) {
	pool := warmpooltest.NewMemory(clock.RealClock{}, warmpool.Template{Name: "base", Desired: 1, EnvdVersion: "0.6.0"})
	svc, err := gateway.New(gateway.Config{Backend: pool, Reader: warmpooltest.Volumes{}, Policy: mount.DefaultPolicy(), Limits: gateway.DefaultLimits()})
	require.NoError(t, err)
	h, err := e2b.New(svc, keys{aliceKey: {Team: "t"}}, e2b.Config{})
	require.NoError(t, err)
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	w := &world{t: t, url: srv.URL}
	u, err := url.Parse(srv.URL)
	require.NoError(t, err)
	require.Contains(t, string(w.as(aliceKey, http.MethodPost, "/v2/sandboxes", `{"templateID":"base"}`).body), `"domain":"localhost:`+u.Port()+`"`)
}

func TestParallelCreatesNeverShareASandbox(t *testing.T) {
	w := newWorld(t)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		seen = map[string]bool{}
		busy int
	)
	for range 300 { // more than the pool has
		wg.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+"/v2/sandboxes", strings.NewReader(`{"templateID":"base"}`))
			if !assert.NoError(t, err) {
				return
			}
			req.Header.Set("X-Api-Key", aliceKey)
			res, err := http.DefaultClient.Do(req)
			if !assert.NoError(t, err) {
				return
			}
			raw, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			assert.NoError(t, err)
			mu.Lock()
			defer mu.Unlock()
			switch res.StatusCode {
			case http.StatusCreated:
				seen[someID.FindString(string(raw))] = true
			case http.StatusTooManyRequests:
				busy++
			default:
				t.Errorf("status %d: %s", res.StatusCode, raw)
			}
		})
	}
	wg.Wait()
	require.Len(t, seen, 250)
	require.Equal(t, 50, busy)
}
