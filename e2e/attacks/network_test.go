package attacks_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/e2e/world"
)

// echoing answers every request with its own name and the request's headers.
const echoing = `
import http.server, os, sys
if os.fork():
    sys.exit(0)
os.setsid()
for fd in range(3):
    os.close(fd)
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (sys.argv[1] + "\n" + self.path + "\n" + str(self.headers)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.HTTPServer(("127.0.0.1", 8000), H).serve_forever()
`

// talking is a sandbox with a server on its loopback that says its name.
func (s *stage) talking(t *testing.T) world.Sandbox {
	t.Helper()
	sb := s.sandbox(t)
	s.python(t, sb, "user", echoing, "NAME-OF-"+sb.ID)
	require.Eventually(t, func() bool {
		status, body := s.raw(t, "GET / HTTP/1.1\r\nHost: 8000-"+sb.ID+".localhost\r\nConnection: close\r\n\r\n")
		return status == http.StatusOK && strings.Contains(body, "NAME-OF-"+sb.ID)
	}, 10*time.Second, 50*time.Millisecond)
	return sb
}

// raw sends bytes as they are.
func (s *stage) raw(t *testing.T, request string) (int, string) {
	t.Helper()
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	c, err := net.Dial("tcp", u.Host) //nolint:noctx // loopback
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = io.WriteString(c, request)
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err, request)
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(body)
}

func TestHeadersCannotChangeWhoIsSpokenTo(t *testing.T) {
	s := begin(t)
	a, b := s.talking(t), s.talking(t)
	hostA := "8000-" + a.ID + ".localhost"
	spoofs := "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: 8000-" + b.ID + ".localhost\r\nX-Forwarded-Proto: https\r\nForwarded: for=1.2.3.4\r\n" +
		"X-Real-Ip: 1.2.3.4\r\nX-Sandgate-Team: other\r\nX-Sandgate-Sandbox: " + b.ID + "\r\nX-Original-Host: " + b.ID + "\r\n"
	t.Run("a sandbox's own host", func(t *testing.T) {
		status, body := s.raw(t, "GET /p HTTP/1.1\r\nHost: "+hostA+"\r\nE2b-Sandbox-Id: "+b.ID+"\r\nE2b-Sandbox-Port: 8000\r\n"+spoofs+"Connection: close\r\n\r\n")
		require.Equal(t, http.StatusOK, status)
		require.Contains(t, body, "NAME-OF-"+a.ID)
		for _, name := range []string{"X-Forwarded", "Forwarded:", "X-Real-Ip", "X-Sandgate", "E2b-Sandbox"} {
			require.NotContains(t, body, name)
		}
	})
	for name, head := range map[string]string{
		"a host that is not ours":      "Host: evil.test\r\nE2b-Sandbox-Id: " + b.ID + "\r\nE2b-Sandbox-Port: 8000\r\n",
		"two ids":                      "Host: localhost\r\nE2b-Sandbox-Id: " + a.ID + "\r\nE2b-Sandbox-Id: " + b.ID + "\r\nE2b-Sandbox-Port: 8000\r\n",
		"two ports":                    "Host: localhost\r\nE2b-Sandbox-Id: " + a.ID + "\r\nE2b-Sandbox-Port: 8000\r\nE2b-Sandbox-Port: 49983\r\n",
		"ids in one header":            "Host: localhost\r\nE2b-Sandbox-Id: " + a.ID + "," + b.ID + "\r\nE2b-Sandbox-Port: 8000\r\n",
		"two hosts":                    "Host: " + hostA + "\r\nHost: 8000-" + b.ID + ".localhost\r\n",
		"no port":                      "Host: localhost\r\nE2b-Sandbox-Id: " + a.ID + "\r\n",
		"a port out of range":          "Host: localhost\r\nE2b-Sandbox-Id: " + a.ID + "\r\nE2b-Sandbox-Port: 70000\r\n",
		"a port with an address":       "Host: localhost\r\nE2b-Sandbox-Id: " + a.ID + "\r\nE2b-Sandbox-Port: 8000@127.0.0.1\r\n",
		"an id that is an address":     "Host: localhost\r\nE2b-Sandbox-Id: 127.0.0.1\r\nE2b-Sandbox-Port: 8000\r\n",
		"a host of 10,000 bytes":       "Host: 8000-" + strings.Repeat("a", 10_000) + ".localhost\r\n",
		"a host with an address in it": "Host: 8000-127.0.0.1.localhost\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			status, body := s.raw(t, "GET / HTTP/1.1\r\n"+head+"Connection: close\r\n\r\n")
			require.GreaterOrEqual(t, status, 400)
			require.NotContains(t, body, "NAME-OF-")
		})
	}
	t.Run("an absolute request target", func(t *testing.T) {
		_, body := s.raw(t, "GET http://8000-"+b.ID+".localhost/ HTTP/1.1\r\nHost: "+hostA+"\r\nConnection: close\r\n\r\n")
		// By the RFC the target counts, not the header. Either way it is one of the two, and both are the caller's.
		require.NotContains(t, body, "sandbox-system")
	})
	t.Run("a path of 10,000 bytes", func(t *testing.T) {
		status, body := s.raw(t, "GET /"+strings.Repeat("a", 10_000)+" HTTP/1.1\r\nHost: "+hostA+"\r\nConnection: close\r\n\r\n")
		require.Equal(t, http.StatusOK, status)
		require.Contains(t, body, strings.Repeat("a", 10_000))
		for _, path := range []string{"/files?path=/" + strings.Repeat("a", 10_000), "/files?path=" + strings.Repeat("/a", 5_000)} {
			status, body = s.daemon(t, a, a.Token, http.MethodGet, path, "")
			require.Less(t, status, 500, body)
			require.GreaterOrEqual(t, status, 400, body)
		}
		status, _ = s.raw(t, "GET /sandboxes/"+strings.Repeat("a", 10_000)+" HTTP/1.1\r\nHost: localhost\r\nX-API-Key: "+s.Key+"\r\nConnection: close\r\n\r\n")
		require.Contains(t, []int{400, 404}, status)
	})
}

// daemon makes a request to the daemon of a sandbox.
func (s *stage) daemon(t *testing.T, sb world.Sandbox, token, method, path, body string) (int, string) {
	t.Helper()
	req, err := s.Request(t.Context(), sb, method, path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Del("X-Access-Token")
	if token != "" {
		req.Header.Set("X-Access-Token", token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(text)
}

func TestTheDaemonTakesOnlyItsOwnersTokenAndNobodysInit(t *testing.T) {
	s := begin(t)
	a, b := s.sandbox(t), s.sandbox(t)
	require.NotEqual(t, a.Token, b.Token)
	s.sh(t, a, "user", "echo mine > /home/user/f")
	for _, token := range []string{"", b.Token, s.Key, a.Token[:len(a.Token)-1], strings.ToUpper(a.Token) + "x"} {
		for _, path := range []string{"/process.Process/List", "/filesystem.Filesystem/ListDir", "/process.Process/SendSignal"} {
			status, text := s.daemon(t, a, token, http.MethodPost, path, `{"path":"/","process":{"pid":1},"signal":"SIGNAL_SIGKILL"}`)
			require.Equal(t, http.StatusUnauthorized, status, text)
		}
		for _, path := range []string{"/files?path=/home/user/f", "/envs", "/metrics"} {
			status, text := s.daemon(t, a, token, http.MethodGet, path, "")
			require.Equal(t, http.StatusUnauthorized, status, text)
			require.NotContains(t, text, "mine")
		}
	}
	status, text := s.daemon(t, a, a.Token, http.MethodGet, "/files?path=/home/user/f", "")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "mine\n", text)

	for _, path := range []string{
		"/init", "//init", "/./init", "/x/../init", "/%69nit", "/init/", "/INIT", "/Init", "/init?x=/", "/init;a", "/.%2finit", "/%2finit", "/x/%2e%2e/init",
		"/upgrade", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw",
	} {
		for _, head := range []string{"", "X-Sandgate-Signature: AAAA\r\nX-Sandgate-Timestamp: 1\r\n", "X-Access-Token: " + a.Token + "\r\n"} {
			body := `{"accessToken":"stolen","envVars":{"A":"B"}}`
			status, text := s.raw(t, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: 49983-%s.localhost\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
				path, a.ID, head, len(body), body))
			require.GreaterOrEqual(t, status, 400, "%s: %s", path, text)
			require.Less(t, status, 500, "%s: %s", path, text)
		}
	}
	status, _ = s.daemon(t, a, "stolen", http.MethodGet, "/envs", "")
	require.Equal(t, http.StatusUnauthorized, status)
	require.Equal(t, "fine\n", s.sh(t, a, "user", "echo fine"))

	// From inside, where the proxy is not in the way, the daemon itself refuses.
	inside := s.sh(t, a, "root", `for h in '' 'X-Access-Token: stolen' 'X-Sandgate-Signature: AAAA'; do curl -s -o /dev/null -w '%{http_code} ' -X POST -H "$h" -H 'Content-Type: application/json' `+
		`-d '{"accessToken":"stolen","envVars":{"A":"B"}}' http://127.0.0.1:49983/init; done`)
	for _, code := range strings.Fields(inside) {
		require.Contains(t, []string{"400", "401", "403", "404"}, code)
	}
	require.Len(t, strings.Fields(inside), 3)
}

func TestASandboxReachesNeitherTheMachineNorAnother(t *testing.T) {
	s := begin(t)
	a, b := s.sandbox(t), s.talking(t)
	hits := new(atomic.Int64)
	var ports []string
	for _, network := range []string{"tcp", "unix"} {
		addr := "127.0.0.1:0"
		if network == "unix" {
			addr = "@sandgate-attack"
		}
		l, err := net.Listen(network, addr) //nolint:noctx // of this test
		require.NoError(t, err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				hits.Add(1)
				_ = c.Close()
			}
		}()
		t.Cleanup(func() {
			require.NoError(t, l.Close())
			<-done
		})
		if network == "tcp" {
			ports = append(ports, strings.TrimPrefix(l.Addr().String(), "127.0.0.1:"))
		}
	}
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	ports = append(ports, u.Port(), strings.TrimPrefix(s.Store.URL, "http://127.0.0.1:"), "8000")
	addrs := []string{"127.0.0.1", "127.0.0.2", "::1", "169.254.169.254", "100.100.100.200", "10.0.0.1"}
	own, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, addr := range own {
		ip, _, err := net.ParseCIDR(addr.String())
		require.NoError(t, err)
		addrs = append(addrs, ip.String())
	}
	script := `
import socket, sys
for addr in sys.argv[1].split(","):
    for port in sys.argv[2].split(","):
        s = socket.socket(socket.AF_INET6 if ":" in addr else socket.AF_INET)
        s.settimeout(1)
        try:
            s.connect((addr, int(port)))
            print("reached", addr, port)
        except OSError:
            pass
        s.close()
for name in ("\0sandgate-attack",):
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect(name)
        print("reached", name)
    except OSError:
        pass
`
	for _, user := range []string{"user", "root"} {
		require.Empty(t, s.python(t, a, user, script, strings.Join(addrs, ","), strings.Join(ports, ",")))
	}
	require.Zero(t, hits.Load())
	require.Contains(t, s.python(t, b, "user", script, "127.0.0.1", "8000"), "reached", "the script can tell")
	require.Equal(t, "lo", strings.TrimSpace(s.sh(t, a, "root", "ls /sys/class/net")))
}
