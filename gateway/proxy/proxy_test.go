package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/gateway/proxy"
	"github.com/sandgate-dev/sandgate/warmpool"
)

const id warmpool.ID = "i0123456789abcdefghi"

// world is a gateway with one sandbox, whose ports are servers of the test.
type world struct {
	gateway *httptest.Server
	proxy   *proxy.Proxy
	gone    chan struct{}
	kill    func()

	mu    sync.Mutex
	ports map[uint16]string
	dials int
	err   error // of Route
	all   []warmpool.Sandbox
}

func (w *world) Route(_ context.Context, got warmpool.ID) (warmpool.Route, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.gone:
		return warmpool.Route{}, warmpool.Errorf(warmpool.NotFound, "no sandbox %s", got)
	default:
	}
	if w.err != nil {
		return warmpool.Route{}, w.err
	}
	if got != id {
		return warmpool.Route{}, warmpool.Errorf(warmpool.NotFound, "no sandbox %s", got)
	}
	return warmpool.Route{Dial: w.dial, Gone: w.gone}, nil
}

func (w *world) dial(ctx context.Context, port uint16) (net.Conn, error) {
	w.mu.Lock()
	addr, ok := w.ports[port]
	w.dials++
	w.mu.Unlock()
	if !ok {
		return nil, syscall.ECONNREFUSED
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

func (w *world) List(context.Context, warmpool.Filter) ([]warmpool.Sandbox, error) {
	return w.all, w.err
}

// serve makes h what listens on a port in the sandbox.
func (w *world) serve(t *testing.T, port uint16, h http.HandlerFunc) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ports[port] = s.Listener.Addr().String()
}

func newWorld(t *testing.T, edit ...func(*proxy.Config)) *world {
	t.Helper()
	w := &world{gone: make(chan struct{}), ports: map[uint16]string{}}
	w.kill = sync.OnceFunc(func() { close(w.gone) })
	c := proxy.Config{
		Resolver: w, Sandboxes: w, Domains: []string{"sandbox.test"}, TrustedHosts: []string{"gateway.svc"},
		Log: slog.New(slog.DiscardHandler),
	}
	for _, e := range edit {
		e(&c)
	}
	p, err := proxy.New(c)
	require.NoError(t, err)
	w.proxy = p
	api := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the API") })
	w.gateway = httptest.NewUnstartedServer(p.Or(api))
	w.gateway.Config = proxy.Server(p.Or(api), c.Log)
	w.gateway.Start()
	t.Cleanup(func() {
		w.gateway.CloseClientConnections()
		w.gateway.Close()
		require.NoError(t, p.Close())
	})
	return w
}

// request makes a request for a port of the sandbox by header.
func (w *world) request(t *testing.T, method, path string, port int, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, w.gateway.URL+path, body)
	require.NoError(t, err)
	r.Header.Set(proxy.HeaderSandboxID, string(id))
	r.Header.Set(proxy.HeaderSandboxPort, fmt.Sprint(port))
	return r
}

func do(t *testing.T, r *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(raw)
}

func TestWhichRequestsReachWhichPort(t *testing.T) {
	w := newWorld(t)
	for _, port := range []uint16{80, 3000, proxy.EnvdPort} {
		w.serve(t, port, func(rw http.ResponseWriter, r *http.Request) {
			for name := range r.Header {
				if strings.HasPrefix(name, "E2b-Sandbox") || strings.HasPrefix(name, "X-Forwarded") || strings.HasPrefix(name, "X-Sandgate") || name == "Forwarded" {
					http.Error(rw, "leaked "+name, http.StatusTeapot)
					return
				}
			}
			_, _ = fmt.Fprintf(rw, "%d %s", port, r.Host)
		})
	}
	sid := string(id)
	headers := func(kv ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(kv); i += 2 {
			h.Add(kv[i], kv[i+1])
		}
		return h
	}
	byHeader := headers(proxy.HeaderSandboxID, sid, proxy.HeaderSandboxPort, "3000")
	cases := []struct {
		name, host string
		header     http.Header
		status     int
		want       string
	}{
		{"headers on an address", "127.0.0.1:1", byHeader, 200, "3000 127.0.0.1:1"},
		{"headers on an IPv6 address", "[::1]:1", byHeader, 200, "3000 [::1]:1"},
		{"headers on localhost", "localhost", byHeader, 200, "3000 localhost"},
		{"headers on the shared host", "sandbox.sandbox.test", byHeader, 200, "3000 sandbox."},
		{"headers on an allowed host", "gateway.svc:8080", byHeader, 200, "3000 gateway.svc:8080"},
		{"headers on any other host", "evil.test", byHeader, 400, "not accepted on this host"},
		{"headers on a host that begins like an address", "127.0.0.1.evil.test", byHeader, 400, "not accepted"},
		{"an id with a client id", "localhost", headers(proxy.HeaderSandboxID, sid+"-0a1b", proxy.HeaderSandboxPort, "3000"), 200, "3000"},
		{"two ids", "localhost", headers(proxy.HeaderSandboxID, sid, proxy.HeaderSandboxID, "x", proxy.HeaderSandboxPort, "80"), 400, "exactly one"},
		{"no port", "localhost", headers(proxy.HeaderSandboxID, sid), 400, "exactly one"},
		{"port 0", "localhost", headers(proxy.HeaderSandboxID, sid, proxy.HeaderSandboxPort, "0"), 400, "invalid sandbox port"},
		{"port 65536", "localhost", headers(proxy.HeaderSandboxID, sid, proxy.HeaderSandboxPort, "65536"), 400, "invalid sandbox port"},
		{"port +80", "localhost", headers(proxy.HeaderSandboxID, sid, proxy.HeaderSandboxPort, "+80"), 400, "invalid sandbox port"},
		{"an id that is none", "localhost", headers(proxy.HeaderSandboxID, "../x", proxy.HeaderSandboxPort, "80"), 400, "invalid sandbox ID"},
		{"an empty id", "localhost", headers(proxy.HeaderSandboxID, "", proxy.HeaderSandboxPort, "80"), 400, "invalid sandbox ID"},
		{"a sandbox's host", "3000-" + sid + ".sandbox.test", nil, 200, "3000 3000-"},
		{"a sandbox's host with a port", "3000-" + sid + ".sandbox.test:8443", nil, 200, "3000 3000-"},
		{"a sandbox's host in capitals", "3000-" + strings.ToUpper(sid) + ".Sandbox.TEST", nil, 200, "3000"},
		{"a sandbox's host with a client id", "3000-" + sid + "-0a1b.sandbox.test", nil, 200, "3000"},
		{"spoofed headers on a sandbox's host", "3000-" + sid + ".sandbox.test", headers(proxy.HeaderSandboxID, "i00000000000000000000", proxy.HeaderSandboxPort, "80"), 200, "3000"},
		{"headers of a proxy", "3000-" + sid + ".sandbox.test", headers("X-Forwarded-Host", "80-"+sid+".sandbox.test", "Forwarded", "host=x", "X-Sandgate-Init-Signature", "x"), 200, "3000"},
		{"a label without a port", sid + ".sandbox.test", nil, 400, "invalid host"},
		{"a label more", "3000-" + sid + ".x.sandbox.test", nil, 400, "invalid host"},
		{"a port that is none", "99999-" + sid + ".sandbox.test", nil, 400, "invalid sandbox port"},
		{"the shared host without headers", "sandbox.sandbox.test", nil, 400, "exactly one"},
		{"the API's host", "api.sandbox.test", nil, 200, "the API"},
		{"another host", "evil.test", nil, 200, "the API"},
		{"a sandbox's label under another domain", "3000-" + sid + ".evil.test", nil, 200, "the API"},
		{"no headers on an address", "127.0.0.1", nil, 200, "the API"},
		{"an unknown sandbox", "3000-i9999999999999999999.sandbox.test", nil, 502, `{"sandboxId":"i9999999999999999999","message":"The sandbox was not found","code":502}`},
		{"an id of another kind", "3000-abc.sandbox.test", nil, 502, `{"sandboxId":"abc","message":"The sandbox was not found","code":502}`},
		{"a closed port", "4000-" + sid + ".sandbox.test", nil, 502, `{"sandboxId":"` + sid + `","message":"The sandbox is running but port is not open","port":4000,"code":502}`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.gateway.URL+"/x", nil)
			require.NoError(t, err)
			r.Host = c.host
			if c.header != nil {
				r.Header = c.header.Clone()
			}
			res, body := do(t, r)
			require.Equal(t, c.status, res.StatusCode, body)
			require.Contains(t, body, c.want)
			if c.status == http.StatusBadGateway {
				require.Equal(t, "application/json; charset=utf-8", res.Header.Get("Content-Type"))
			}
			if c.want != "the API" {
				require.NotEmpty(t, res.Header.Get("X-Request-Id"))
			}
		})
	}
}

// raw sends bytes and returns the answer's status line and the rest.
func (w *world) raw(t *testing.T, text string) string {
	t.Helper()
	c, err := net.Dial("tcp", w.gateway.Listener.Addr().String())
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.WriteString(c, text)
	require.NoError(t, err)
	out, err := io.ReadAll(c)
	require.NoError(t, err)
	return string(out)
}

func TestRequestsThatTryToConfuse(t *testing.T) {
	w := newWorld(t)
	w.serve(t, 3000, func(rw http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(rw, "got %s %s", r.RequestURI, r.Host)
	})
	own := "3000-" + string(id) + ".sandbox.test"
	cases := []struct{ name, text, want string }{
		{"an absolute form decides, not the Host beside it", "GET http://evil.test/ HTTP/1.1\r\nHost: " + own + "\r\nConnection: close\r\n\r\n", "the API"},
		{"an absolute form of the sandbox's host", "GET http://" + own + "/a?b HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n", "got /a?b " + own},
		{"two Hosts", "GET / HTTP/1.1\r\nHost: " + own + "\r\nHost: evil.test\r\nConnection: close\r\n\r\n", "400 Bad Request"},
		{"a path that looks like a host", "GET //evil.test/x HTTP/1.1\r\nHost: " + own + "\r\nConnection: close\r\n\r\n", "got //evil.test/x " + own},
		{"a query that is not one", "GET /a?%zz;b=1 HTTP/1.1\r\nHost: " + own + "\r\nConnection: close\r\n\r\n", "got /a?%zz;b=1 " + own},
		{"an encoded path stays as it is", "GET /a%2Fb%20c HTTP/1.1\r\nHost: " + own + "\r\nConnection: close\r\n\r\n", "got /a%2Fb%20c " + own},
		{"CONNECT", "CONNECT " + own + ":3000 HTTP/1.1\r\nHost: " + own + "\r\nConnection: close\r\n\r\n", "400 Bad Request"},
		{"a bare CR in a header", "GET / HTTP/1.1\r\nHost: " + own + "\rX: y\r\nConnection: close\r\n\r\n", "400 Bad Request"},
		{"a length and chunks", "POST / HTTP/1.1\r\nHost: " + own + "\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n", "got / " + own},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { require.Contains(t, w.raw(t, c.text), c.want) })
	}
}

func TestTheDaemonsReservedPathsAreNotThere(t *testing.T) {
	w := newWorld(t)
	hit := func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "hit") }
	w.serve(t, proxy.EnvdPort, hit)
	w.serve(t, 3000, hit)
	for _, path := range []string{"/init", "/init/", "//init", "/./init", "/x/../init", "/%69nit", "/INIT", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw", "/upgrade"} {
		res, body := do(t, w.request(t, http.MethodPost, path, proxy.EnvdPort, nil))
		require.Equal(t, http.StatusNotFound, res.StatusCode, path)
		require.Contains(t, body, "reserved for the E2B control plane")
		require.Contains(t, body, `"code":404`)
	}
	for _, path := range []string{"/initial", "/health"} {
		_, body := do(t, w.request(t, http.MethodGet, path, proxy.EnvdPort, nil))
		require.Equal(t, "hit", body)
	}
	_, body := do(t, w.request(t, http.MethodPost, "/init", 3000, nil))
	require.Equal(t, "hit", body, "on a user's port every path is the user's")
}

func TestAPersonGetsAPage(t *testing.T) {
	w := newWorld(t)
	r := w.request(t, http.MethodGet, "/", 4000, nil)
	r.Header.Set("User-Agent", "Mozilla/5.0 (X11)")
	res, body := do(t, r)
	require.Equal(t, http.StatusBadGateway, res.StatusCode)
	require.Equal(t, "text/html; charset=utf-8", res.Header.Get("Content-Type"))
	require.Contains(t, body, "The sandbox is running but port is not open")
}

func TestHeadersAndBodiesPassUntouched(t *testing.T) {
	w := newWorld(t)
	w.serve(t, 3000, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header()["Content-Type"] = nil
		rw.Header().Set("Content-Encoding", "gzip")
		rw.Header().Set("X-Seen", fmt.Sprintf("%q %q %q", r.Header["Accept-Encoding"], r.Header["User-Agent"], r.Header["Range"]))
		rw.WriteHeader(http.StatusPartialContent)
		_, _ = io.WriteString(rw, "<html>not really gzip")
	})
	r := w.request(t, http.MethodGet, "/", 3000, nil)
	r.Header.Set("Range", "bytes=0-1")
	r.Header.Set("Accept-Encoding", "br")
	r.Header["User-Agent"] = []string{""}
	res, body := do(t, r)
	require.Equal(t, http.StatusPartialContent, res.StatusCode)
	require.Equal(t, "<html>not really gzip", body)
	require.Equal(t, `["br"] [] ["bytes=0-1"]`, res.Header.Get("X-Seen"))
	require.NotContains(t, res.Header, "Content-Type", "nothing is guessed")
}

func TestTrailersPassBothWays(t *testing.T) {
	w := newWorld(t)
	w.serve(t, 3000, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Trailer", "X-Told")
		_, _ = io.Copy(rw, r.Body)
		rw.Header().Set("X-Told", "down "+r.Trailer.Get("X-Sum"))
		rw.Header().Set(http.TrailerPrefix+"X-Untold", "yes")
	})
	r := w.request(t, http.MethodPost, "/", 3000, io.NopCloser(strings.NewReader("body")))
	r.Trailer = http.Header{"X-Sum": {"up"}}
	res, body := do(t, r)
	require.Equal(t, "body", body)
	require.Equal(t, "down up", res.Trailer.Get("X-Told"))
	require.Equal(t, "yes", res.Trailer.Get("X-Untold"))
}

// TestStreamsAreNotBuffered sends each line only after the last one came back, over one request.
func TestStreamsAreNotBuffered(t *testing.T) {
	w := newWorld(t)
	w.serve(t, 3000, func(rw http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(rw)
		_ = c.EnableFullDuplex()
		rw.Header().Set("Content-Type", "text/event-stream")
		rw.WriteHeader(http.StatusOK)
		_ = c.Flush()
		for lines := bufio.NewScanner(r.Body); lines.Scan(); {
			_, _ = fmt.Fprintf(rw, "data: %s\n\n", lines.Text())
			_ = c.Flush()
		}
	})
	h2c := &http.Transport{Protocols: new(http.Protocols)}
	h2c.Protocols.SetUnencryptedHTTP2(true)
	defer h2c.CloseIdleConnections()
	for name, transport := range map[string]*http.Transport{"HTTP/1.1": http.DefaultTransport.(*http.Transport), "HTTP/2 without TLS": h2c} {
		t.Run(name, func(t *testing.T) {
			in, out := io.Pipe()
			res, err := transport.RoundTrip(w.request(t, http.MethodPost, "/", 3000, in))
			require.NoError(t, err)
			defer func() { _ = res.Body.Close() }()
			back := bufio.NewReader(res.Body)
			for i := range 5 {
				_, err := fmt.Fprintf(out, "line %d\n", i)
				require.NoError(t, err)
				line, err := back.ReadString('\n')
				require.NoError(t, err)
				require.Equal(t, fmt.Sprintf("data: line %d\n", i), line)
				_, err = back.ReadString('\n')
				require.NoError(t, err)
			}
			require.NoError(t, out.Close())
			_, err = back.ReadByte()
			require.ErrorIs(t, err, io.EOF)
		})
	}
}

func TestAnAnswerOfKnownLengthIsNotBufferedEither(t *testing.T) {
	w := newWorld(t)
	more := make(chan struct{})
	w.serve(t, 3000, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Length", "2")
		_, _ = io.WriteString(rw, "a")
		_ = http.NewResponseController(rw).Flush()
		<-more
		_, _ = io.WriteString(rw, "b")
	})
	release := sync.OnceFunc(func() { close(more) })
	defer release()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	res, err := http.DefaultTransport.RoundTrip(w.request(t, http.MethodGet, "/", 3000, nil).WithContext(ctx))
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	one := make([]byte, 1)
	_, err = io.ReadFull(res.Body, one)
	require.NoError(t, err, "the first byte comes before the last is written")
	release()
	rest, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "ab", string(one)+string(rest))
}

func TestConnectionsUpgrade(t *testing.T) {
	w := newWorld(t)
	w.serve(t, 3000, func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Sec-WebSocket-Key") != "k" {
			http.Error(rw, "no upgrade", http.StatusBadRequest)
			return
		}
		c, buf, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: a\r\n\r\n")
		_, _ = io.Copy(c, buf)
	})
	c, err := net.Dial("tcp", w.gateway.Listener.Addr().String())
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: 3000-%s.sandbox.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n", id)
	require.NoError(t, err)
	back := bufio.NewReader(c)
	res, err := http.ReadResponse(back, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	require.Equal(t, "a", res.Header.Get("Sec-WebSocket-Accept"))
	for _, text := range []string{"ping", "pong"} {
		_, err = io.WriteString(c, text)
		require.NoError(t, err)
		got := make([]byte, 4)
		_, err = io.ReadFull(back, got)
		require.NoError(t, err)
		require.Equal(t, text, string(got))
	}
	w.kill()
	_, err = back.ReadByte()
	require.Error(t, err, "an upgraded connection ends with its sandbox")
	require.NotErrorIs(t, err, context.DeadlineExceeded)
}

func TestAClientThatLeavesIsNoticedInTheSandbox(t *testing.T) {
	w := newWorld(t)
	left := make(chan struct{})
	w.serve(t, 3000, func(rw http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
		close(left)
	})
	ctx, cancel := context.WithCancel(t.Context())
	res, err := http.DefaultTransport.RoundTrip(w.request(t, http.MethodGet, "/", 3000, nil).WithContext(ctx))
	require.NoError(t, err)
	cancel()
	_ = res.Body.Close()
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		t.Fatal("the sandbox never learned that the client left")
	}
}

func TestADeadSandboxResetsItsClients(t *testing.T) {
	h2c := &http.Transport{Protocols: new(http.Protocols)}
	h2c.Protocols.SetUnencryptedHTTP2(true)
	defer h2c.CloseIdleConnections()
	for name, transport := range map[string]*http.Transport{"HTTP/1.1": http.DefaultTransport.(*http.Transport), "HTTP/2 without TLS": h2c} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			waiting := make(chan struct{})
			w.serve(t, 3000, func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/silent" {
					close(waiting)
				} else {
					_, _ = io.WriteString(rw, "begun")
					_ = http.NewResponseController(rw).Flush()
				}
				<-r.Context().Done()
			})
			silent := make(chan string, 1)
			go func() {
				res, err := transport.RoundTrip(w.request(t, http.MethodGet, "/silent", 3000, nil))
				if err != nil {
					silent <- err.Error()
					return
				}
				raw, _ := io.ReadAll(res.Body)
				_ = res.Body.Close()
				silent <- string(raw)
			}()
			<-waiting
			res, err := transport.RoundTrip(w.request(t, http.MethodGet, "/", 3000, nil))
			require.NoError(t, err)
			defer func() { _ = res.Body.Close() }()
			begun := make([]byte, 5)
			_, err = io.ReadFull(res.Body, begun)
			require.NoError(t, err)

			w.kill()
			_, err = io.ReadAll(res.Body)
			require.Error(t, err, "a broken stream must not look like a whole one")
			require.Contains(t, <-silent, "The sandbox was not found")
			after, body := do(t, w.request(t, http.MethodGet, "/health", proxy.EnvdPort, nil))
			require.Equal(t, http.StatusBadGateway, after.StatusCode)
			require.JSONEq(t, `{"sandboxId":"`+string(id)+`","message":"The sandbox was not found","code":502}`, body)
		})
	}
}

func TestConnectionsToASandboxAreKept(t *testing.T) {
	w := newWorld(t)
	w.serve(t, 3000, func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "ok") })
	for range 10 {
		_, body := do(t, w.request(t, http.MethodGet, "/", 3000, nil))
		require.Equal(t, "ok", body)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	require.Equal(t, 1, w.dials)
}

func TestAServiceThatIsJustStartingIsWaitedFor(t *testing.T) {
	w := newWorld(t)
	late := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "ok") }))
	defer late.Close()
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
			w.mu.Lock()
			tried := w.dials
			if tried > 0 {
				w.ports[3000] = late.Listener.Addr().String()
			}
			w.mu.Unlock()
			if tried > 0 {
				tick.Stop()
				return
			}
		}
	}()
	_, body := do(t, w.request(t, http.MethodGet, "/", 3000, nil))
	require.Equal(t, "ok", body)
	<-opened
}

func TestASandboxTakesOnlySoManyRequests(t *testing.T) {
	w := newWorld(t, func(c *proxy.Config) { c.MaxRequests = 1 })
	w.serve(t, 3000, func(rw http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
	})
	res, err := http.DefaultTransport.RoundTrip(w.request(t, http.MethodGet, "/", 3000, nil))
	require.NoError(t, err)
	second, body := do(t, w.request(t, http.MethodGet, "/", 3000, nil))
	require.Equal(t, http.StatusTooManyRequests, second.StatusCode)
	require.Contains(t, body, `"code":429`)
	_ = res.Body.Close()
	require.Eventually(t, func() bool {
		res, err := http.DefaultTransport.RoundTrip(w.request(t, http.MethodGet, "/", 3000, nil))
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	}, 10*time.Second, 5*time.Millisecond, "a place is free again when its request is over")
}

func TestAServiceThatHangsUpIsNotAClosedPort(t *testing.T) {
	w := newWorld(t)
	w.serve(t, 3000, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	res, body := do(t, w.request(t, http.MethodPost, "/", 3000, strings.NewReader("x")))
	require.Equal(t, http.StatusBadGateway, res.StatusCode)
	require.Contains(t, body, "gave no answer")
}

func TestErrorsOfTheResolver(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		want   string
	}{
		{warmpool.Errorf(warmpool.NotFound, "x"), 502, "The sandbox was not found"},
		{warmpool.Errorf(warmpool.Unavailable, "come back"), 503, "come back"},
		{warmpool.Errorf(warmpool.Conflict, "is changing"), 409, "is changing"},
		{warmpool.Errorf(warmpool.Denied, "may not"), 403, "may not"},
		{errors.New("secret cause"), 502, "cannot be reached at the moment"},
	} {
		w := newWorld(t)
		w.err = c.err
		res, body := do(t, w.request(t, http.MethodGet, "/", 3000, nil))
		require.Equal(t, c.status, res.StatusCode)
		require.Contains(t, body, c.want)
		require.NotContains(t, body, "secret cause")
	}
}

// TestAnswersBeforeTheBodyEnds has the service refuse large bodies unread, over kept connections.
func TestAnswersBeforeTheBodyEnds(t *testing.T) {
	book := &logbook{}
	w := newWorld(t, func(c *proxy.Config) {
		c.Log = slog.New(slog.NewTextHandler(book, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	w.serve(t, 3000, func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			http.Error(rw, "too large", http.StatusRequestEntityTooLarge)
		}
	})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 50 {
				r := w.request(t, http.MethodPost, "/", 3000, bytes.NewReader(make([]byte, i*40<<10)))
				res, err := http.DefaultTransport.RoundTrip(r)
				if err != nil {
					continue // the service hung up while the client still wrote; it may
				}
				raw, _ := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if res.StatusCode != http.StatusRequestEntityTooLarge && res.StatusCode != http.StatusBadGateway {
					t.Errorf("status %d: %s", res.StatusCode, raw)
				}
			}
		})
	}
	all.Wait()
	res, _ := do(t, w.request(t, http.MethodGet, "/", 3000, nil))
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.NotContains(t, book.String(), "panic", "the server and the transport read the connection one after the other")
}

// TestAnAnswerDoesNotWaitForAClientThatStalls has the client stop in the middle of its body for good.
func TestAnAnswerDoesNotWaitForAClientThatStalls(t *testing.T) {
	w := newWorld(t)
	w.serve(t, 3000, func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "no", http.StatusForbidden) })
	c, err := net.Dial("tcp", w.gateway.Listener.Addr().String())
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: 3000-%s.sandbox.test\r\nContent-Length: 1000000\r\n\r\nbegin", id)
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	raw, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "no\n", string(raw))
	require.Equal(t, http.StatusForbidden, res.StatusCode)
}

// logbook collects log lines.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logbook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logbook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func sign(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "v1_" + base64.RawStdEncoding.EncodeToString(sum[:])
}

func TestASignedURLFindsItsSandbox(t *testing.T) {
	w := newWorld(t)
	w.all = []warmpool.Sandbox{{ID: "i9999999999999999999", Token: "other"}, {ID: "i8888888888888888888"}, {ID: id, Token: "tok"}}
	w.serve(t, proxy.EnvdPort, func(rw http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(rw, "envd "+r.URL.RawQuery) })
	cases := []struct {
		name, method, host, query string
		status                    int
		want                      string
	}{
		{"a read", "GET", "127.0.0.1", "path=/a b&signature=" + sign("/a b:read::tok"), 200, "envd path="},
		{"a write by a user", "POST", "localhost:3000", "path=/a&username=root&signature=" + sign("/a:write:root:tok"), 200, "envd"},
		{"with an end", "GET", "127.0.0.1", "path=/a&signature_expiration=99&signature=" + sign("/a:read::tok:99"), 200, "envd"},
		{"of the other operation", "POST", "127.0.0.1", "path=/a&signature=" + sign("/a:read::tok"), 401, `"code":401`},
		{"of another token", "GET", "127.0.0.1", "path=/a&signature=" + sign("/a:read::nobody"), 401, "invalid signature"},
		{"of no token", "GET", "127.0.0.1", "path=/a&signature=" + sign("/a:read::"), 401, "invalid signature"},
		{"of another length", "GET", "127.0.0.1", "path=/a&signature=v1_x", 401, "invalid signature"},
		{"with an end that is none", "GET", "127.0.0.1", "path=/a&signature_expiration=" + strings.Repeat("9", 21) + "&signature=" + sign("/a:read::tok:"+strings.Repeat("9", 21)), 401, "invalid signature"},
		{"without a signature", "GET", "127.0.0.1", "path=/a", 200, "the API"},
		{"on a host that is not ours", "GET", "evil.test", "path=/a&signature=" + sign("/a:read::tok"), 200, "the API"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			values, err := url.ParseQuery(strings.ReplaceAll(c.query, "+", "%2B"))
			require.NoError(t, err)
			r, err := http.NewRequestWithContext(t.Context(), c.method, w.gateway.URL+"/files?"+values.Encode(), nil)
			require.NoError(t, err)
			r.Host = c.host
			res, body := do(t, r)
			require.Equal(t, c.status, res.StatusCode, body)
			require.Contains(t, body, c.want)
		})
	}
}

// A long URL costs its own time, and many sandboxes theirs: hashed once a sandbox it would be their product, 1 GB a request. Counted is
// the processor's time of this process, to which a busy machine adds little.
func TestALongSignedURLCostsLittleHoweverManySandboxes(t *testing.T) {
	w := newWorld(t)
	cost := func(length int) (least time.Duration) {
		for range 5 {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.gateway.URL+"/files?path=/"+strings.Repeat("a", length)+"&signature="+url.QueryEscape(sign("x")), nil)
			require.NoError(t, err)
			before := busy(t)
			res, _ := do(t, r)
			spent := busy(t) - before
			require.Equal(t, http.StatusUnauthorized, res.StatusCode)
			if least == 0 || spent < least {
				least = spent
			}
		}
		return least
	}
	long := cost(200 << 10)
	for i := range 5_000 {
		w.all = append(w.all, warmpool.Sandbox{ID: warmpool.NewID(), Token: warmpool.Token(strconv.Itoa(i))})
	}
	many, both := cost(1), cost(200<<10)
	t.Logf("a long URL %v, many sandboxes %v, both %v", long, many, both)
	require.Less(t, both, 4*max(long+many, time.Millisecond))
}

// busy is the processor's time that this process has had.
func busy(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestNothingIsLoggedAboveDebugForAnOrdinaryRequest(t *testing.T) {
	book := &logbook{}
	w := newWorld(t, func(c *proxy.Config) { c.Log = slog.New(slog.NewTextHandler(book, nil)) })
	w.serve(t, 3000, func(rw http.ResponseWriter, _ *http.Request) {})
	_, _ = do(t, w.request(t, http.MethodGet, "/", 3000, nil))
	_, _ = do(t, w.request(t, http.MethodGet, "/", 4000, nil))
	require.Empty(t, book.String())
}

func FuzzHost(f *testing.F) {
	p, err := proxy.New(proxy.Config{Resolver: &world{gone: make(chan struct{})}, Domains: []string{"sandbox.test"}, Log: slog.New(slog.DiscardHandler)})
	require.NoError(f, err)
	for _, host := range []string{"3000-" + string(id) + ".sandbox.test", "sandbox.sandbox.test", "127.0.0.1:80", "[::1]", "a:b:c", "-.sandbox.test", "0-a.sandbox.test:", "..sandbox.test", ""} {
		f.Add(host, string(id), "80")
	}
	f.Fuzz(func(t *testing.T, host, sandbox, port string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host = host
		r.Header[proxy.HeaderSandboxID], r.Header[proxy.HeaderSandboxPort] = []string{sandbox}, []string{port}
		p.Match(r)
		rec := httptest.NewRecorder()
		p.ServeHTTP(rec, r)
		// Whatever is sent, the resolver knows no sandbox: it is refused as malformed or as unknown, and nothing else.
		if c := rec.Code; c != http.StatusBadRequest && c != http.StatusBadGateway {
			t.Fatalf("status %d for host %q", c, host)
		}
	})
}
