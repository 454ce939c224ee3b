package envd

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/injector/envd/files"
	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
	"github.com/sandgate-dev/sandgate/injector/envd/wire"
)

const sandbox = "iabc0000000000000000"

func start(t *testing.T, cfg Config) string {
	t.Helper()
	s, err := New(cfg)
	require.NoError(t, err)
	srv := httptest.NewServer(s)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.Close(ctx)
		srv.CloseClientConnections()
		srv.Close()
	})
	return srv.URL
}

// raw sends bytes as they are and returns the answer with its body decoded from chunks, and nothing else.
func raw(t *testing.T, base, request string) (*http.Response, []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = io.WriteString(conn, request)
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, body
}

func post(path, contentType, body string, headers ...string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n%s", path, contentType, len(body), lines(headers), body)
}

func lines(headers []string) string {
	if len(headers) == 0 {
		return ""
	}
	return strings.Join(headers, "\r\n") + "\r\n"
}

func frame(flag byte, message string) string {
	head := binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(message)))
	return string(head) + message
}

// frames splits a stream into "FLAG JSON", the JSON without the spaces that the library strews in.
func frames(t *testing.T, body []byte) (out []string) {
	t.Helper()
	for len(body) > 0 {
		require.GreaterOrEqual(t, len(body), 5)
		n := int(binary.BigEndian.Uint32(body[1:5]))
		require.GreaterOrEqual(t, len(body), 5+n)
		var compact bytes.Buffer
		require.NoError(t, json.Compact(&compact, body[5:5+n]))
		out = append(out, fmt.Sprintf("%d %s", body[0], compact.String()))
		body = body[5+n:]
	}
	return out
}

const stream = "application/connect+json"

// The bytes on the wire, as SDKs send them and expect them back.
func TestACommandOnTheWire(t *testing.T) {
	url := start(t, Config{})
	for name, c := range map[string]struct {
		request string
		headers []string
		want    []string
	}{
		"output and success": {
			`{"process":{"cmd":"/bin/bash","args":["-c","echo hi"],"cwd":"/tmp"},"stdin":false}`,
			[]string{"Connect-Timeout-Ms: 60000", "Keepalive-Ping-Interval: 50", "Connect-Protocol-Version: 1"},
			[]string{`0 {"event":{"start":{"pid":PID}}}`, `0 {"event":{"data":{"stdout":"aGkK"}}}`, `0 {"event":{"end":{"exited":true,"status":"exit status 0"}}}`, `2 {}`},
		},
		"an error and failure": {
			`{"process":{"cmd":"/bin/bash","args":["-c","echo no >&2; exit 2"],"cwd":"/tmp"}}`, nil,
			[]string{`0 {"event":{"start":{"pid":PID}}}`, `0 {"event":{"data":{"stderr":"bm8K"}}}`, `0 {"event":{"end":{"exitCode":2,"exited":true,"status":"exit status 2","error":"exit status 2"}}}`, `2 {}`},
		},
		"a timeout of 0 is none": {
			`{"process":{"cmd":"true","cwd":"/tmp"}}`, []string{"Connect-Timeout-Ms: 0"},
			[]string{`0 {"event":{"start":{"pid":PID}}}`, `0 {"event":{"end":{"exited":true,"status":"exit status 0"}}}`, `2 {}`},
		},
		"its own death": {
			`{"process":{"cmd":"/bin/bash","args":["-c","kill -9 $$"],"cwd":"/tmp"}}`, nil,
			[]string{`0 {"event":{"start":{"pid":PID}}}`, `0 {"event":{"end":{"exitCode":-1,"status":"signal: killed","error":"signal: killed"}}}`, `2 {}`},
		},
		"a missing directory": {
			`{"process":{"cmd":"true","cwd":"/does/not/exist"}}`, nil,
			[]string{`2 {"error":{"code":"invalid_argument","message":"cwd '/does/not/exist' does not exist"}}`},
		},
		"its timeout": {
			`{"process":{"cmd":"sleep","args":["100"],"cwd":"/tmp"}}`, []string{"Connect-Timeout-Ms: 200"},
			[]string{`0 {"event":{"start":{"pid":PID}}}`, `2 {"error":{"code":"deadline_exceeded","message":"MESSAGE"}}`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			res, body := raw(t, url, post("/process.Process/Start", stream, frame(0, c.request), c.headers...))
			require.Equal(t, 200, res.StatusCode, "%s", body)
			require.Equal(t, stream, res.Header.Get("Content-Type"))
			got := frames(t, body)
			require.Len(t, got, len(c.want), "%v", got)
			for i, want := range c.want {
				before, after, _ := strings.Cut(want, "PID")
				if alt, end, ok := strings.Cut(want, "MESSAGE"); ok {
					before, after = alt, end
				}
				require.True(t, strings.HasPrefix(got[i], before) && strings.HasSuffix(got[i], after), "want %s, got %s", want, got[i])
			}
		})
	}
}

func TestUnaryCallsOnTheWire(t *testing.T) {
	url := start(t, Config{})
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("abc"), 0o644))
	for name, c := range map[string]struct {
		path, body string
		code       int
		want       []string
	}{
		"stat: 64-bit numbers are strings, enums are names": {"/filesystem.Filesystem/Stat", `{"path":"` + dir + `/f"}`, 200, []string{`"size":"3"`, `"type":"FILE_TYPE_FILE"`, `"modifiedTime":"`, `"permissions":"-rw-r--r--"`}},
		"stat of what is missing":                           {"/filesystem.Filesystem/Stat", `{"path":"` + dir + `/x"}`, 404, []string{`"code":"not_found"`, `"message":"`}},
		"a directory that is there":                         {"/filesystem.Filesystem/MakeDir", `{"path":"` + dir + `"}`, 409, []string{`"code":"already_exists"`}},
		"a listing of a file":                               {"/filesystem.Filesystem/ListDir", `{"path":"` + dir + `/f","depth":1}`, 400, []string{`"code":"invalid_argument"`}},
		"removal of what is missing":                        {"/filesystem.Filesystem/Remove", `{"path":"` + dir + `/x"}`, 200, []string{`{}`}},
		"no processes":                                      {"/process.Process/List", `{}`, 200, []string{`{}`}},
		"a signal to nobody":                                {"/process.Process/SendSignal", `{"process":{"pid":4194000},"signal":"SIGNAL_SIGKILL"}`, 404, []string{`"code":"not_found"`}},
		"unknown fields of a later SDK are ignored":         {"/process.Process/List", `{"new":1}`, 200, []string{`{}`}},
	} {
		t.Run(name, func(t *testing.T) {
			res, body := raw(t, url, post(c.path, "application/json", c.body, "Connect-Protocol-Version: 1", "Accept-Encoding: gzip"))
			require.Equal(t, c.code, res.StatusCode, "%s", body)
			var compact bytes.Buffer
			require.NoError(t, json.Compact(&compact, body))
			for _, want := range c.want {
				require.Contains(t, compact.String(), want)
			}
		})
	}
	t.Run("an unknown user", func(t *testing.T) {
		res, body := raw(t, url, post("/filesystem.Filesystem/Stat", "application/json", `{"path":"/"}`, "Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte("nobody-here:"))))
		require.Equal(t, 401, res.StatusCode)
		require.Contains(t, string(body), "unauthenticated")
	})
}

// zeros is a message of n bytes that compresses to next to nothing.
func zeros(t *testing.T, n int) string {
	t.Helper()
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	for chunk := make([]byte, 1<<20); n > 0; n -= len(chunk) {
		_, err := z.Write(chunk[:min(n, len(chunk))])
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	return zipped.String()
}

func TestAMessageIsBoundedHoweverItIsPacked(t *testing.T) {
	url := start(t, Config{})
	bomb := zeros(t, wire.MaxMessage+1)
	for name, c := range map[string]struct {
		request string
		code    int
	}{
		"a call":                       {post("/process.Process/SendInput", "application/json", bomb, "Content-Encoding: gzip"), 429},
		"a stream":                     {post("/process.Process/Start", stream, frame(1, bomb), "Connect-Content-Encoding: gzip"), 200},
		"a stream that claims a giant": {post("/process.Process/Start", stream, "\x00\xff\xff\xff\xff{}"), 200},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			res, body := raw(t, url, c.request)
			runtime.ReadMemStats(&after)
			require.Equal(t, c.code, res.StatusCode, "%s", body)
			require.Contains(t, string(body), "resource_exhausted")
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(12*wire.MaxMessage))
		})
	}
}

func TestAWatchOnTheWire(t *testing.T) {
	url := start(t, Config{})
	dir := t.TempDir()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = io.WriteString(conn, post("/filesystem.Filesystem/WatchDir", stream, frame(0, `{"path":"`+dir+`"}`)))
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	next := func() string {
		head := make([]byte, 5)
		_, err := io.ReadFull(res.Body, head)
		require.NoError(t, err)
		body := make([]byte, binary.BigEndian.Uint32(head[1:]))
		_, err = io.ReadFull(res.Body, body)
		require.NoError(t, err)
		return frames(t, slices.Concat(head, body))[0]
	}
	require.Equal(t, `0 {"start":{}}`, next())
	require.NoError(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	require.Equal(t, `0 {"filesystem":{"name":"d","type":"EVENT_TYPE_CREATE"}}`, next())
}

func TestAWatchsTimeoutOnTheWire(t *testing.T) {
	url := start(t, Config{})
	_, body := raw(t, url, post("/filesystem.Filesystem/WatchDir", stream, frame(0, `{"path":"/tmp"}`), "Connect-Timeout-Ms: 200"))
	got := frames(t, body)
	require.Contains(t, got[len(got)-1], `2 {"error":{"code":"deadline_exceeded"`)
}

func TestBeforeASignedInitNothingIsServedButHealth(t *testing.T) {
	_, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	signer, err := initialize.NewSigner(private, nil)
	require.NoError(t, err)
	url := start(t, Config{InitKey: signer.PublicKey(), SandboxID: sandbox})
	get := func(method, path, token string) (int, http.Header, string) {
		r, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader("{}"))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/json")
		if token != "" {
			r.Header.Set(initialize.Header, token)
		}
		res, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return res.StatusCode, res.Header, string(body)
	}
	routes := []string{"GET /envs", "GET /metrics", "POST /process.Process/List", "POST /filesystem.Filesystem/ListDir", "POST /files/compose", "GET /nothing"}
	files := []string{"GET /files?path=/etc/hostname", "POST /files?path=/tmp/x"}
	for _, route := range append(routes, files...) {
		method, path, _ := strings.Cut(route, " ")
		code, _, body := get(method, path, "t")
		require.Equal(t, 401, code, route)
		require.JSONEq(t, `{"code":401,"message":"the sandbox has not been initialised yet"}`, body)
	}
	code, _, _ := get("GET", "/health", "")
	require.Equal(t, 204, code)
	code, header, _ := get("POST", "/init", "")
	require.Equal(t, 401, code, "an /init that nobody signed")
	require.Equal(t, Version, header.Get(initialize.VersionHeader))
	_, err = initialize.Init(t.Context(), http.DefaultClient, url, "iother", initialize.Request{AccessToken: "t"}, signer)
	require.ErrorIs(t, err, initialize.ErrRefused, "an /init for another sandbox")

	version, err := initialize.Init(t.Context(), http.DefaultClient, url, sandbox, initialize.Request{AccessToken: "t", EnvVars: map[string]string{"A": "1"}}, signer)
	require.NoError(t, err)
	require.Equal(t, Version, version)
	for _, route := range append(routes, files...) {
		method, path, _ := strings.Cut(route, " ")
		for _, token := range []string{"", "T", "tt"} {
			code, _, _ := get(method, path, token)
			require.Equal(t, 401, code, "%s with %q", route, token)
		}
		code, _, _ := get(method, path, "t")
		require.NotEqual(t, 401, code, route)
	}
	_, _, body := get("GET", "/envs", "t")
	require.JSONEq(t, `{"A":"1"}`, body)
	code, _, body = get("GET", "/nothing", "t")
	require.Equal(t, 404, code)
	require.JSONEq(t, `{"code":404,"message":"no such route"}`, body)
}

func TestASignedURLOpensOneFileOnly(t *testing.T) {
	url := start(t, Config{})
	_, err := initialize.Init(t.Context(), http.DefaultClient, url, sandbox, initialize.Request{AccessToken: "t"}, nil)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(path, []byte("x"), 0o644))
	signature := strings.NewReplacer("+", "%2B", "/", "%2F").Replace(files.Signature(path, files.Read, "", "t", nil))
	res, body := raw(t, url, "GET /files?path="+path+"&signature="+signature+" HTTP/1.1\r\nHost: x\r\n\r\n")
	require.Equal(t, 200, res.StatusCode)
	require.Equal(t, "x", string(body))
	res, _ = raw(t, url, "GET /files?path=/etc/passwd&signature="+signature+" HTTP/1.1\r\nHost: x\r\n\r\n")
	require.Equal(t, 401, res.StatusCode)
}

func TestPagesOfAnyOriginMayCall(t *testing.T) {
	url := start(t, Config{})
	_, err := initialize.Init(t.Context(), http.DefaultClient, url, sandbox, initialize.Request{AccessToken: "t"}, nil)
	require.NoError(t, err)
	res, _ := raw(t, url, "OPTIONS /files HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-access-token\r\n\r\n")
	require.Equal(t, 204, res.StatusCode, "a preflight carries no token")
	require.Equal(t, "*", res.Header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, "x-access-token", res.Header.Get("Access-Control-Allow-Headers"))
	require.Contains(t, res.Header.Get("Access-Control-Allow-Methods"), "POST")
	res, _ = raw(t, url, "GET /envs HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example\r\n\r\n")
	require.Equal(t, 401, res.StatusCode)
	require.Equal(t, "*", res.Header.Get("Access-Control-Allow-Origin"), "so that a page can read the refusal")
}

func TestMetricsAreThere(t *testing.T) {
	url := start(t, Config{})
	_, body := raw(t, url, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
	var m map[string]float64
	require.NoError(t, json.Unmarshal(body, &m))
	for _, key := range []string{"ts", "cpu_count", "mem_total", "mem_used", "mem_total_mib", "disk_total"} {
		require.Positive(t, m[key], key)
	}
	for _, key := range []string{"cpu_used_pct", "mem_cache", "disk_used", "mem_used_mib"} {
		require.Contains(t, m, key)
	}
	require.LessOrEqual(t, m["mem_used"], m["mem_total"])
}

func TestTheRightToChangeUsersIsReadFromTheKernel(t *testing.T) {
	for name, c := range map[string]struct {
		status string
		want   bool
	}{
		"all capabilities":              {"Name:\tx\nCapEff:\t000001ffffffffff\n", true},
		"a container's":                 {"CapEff:\t00000000a80425fb\n", true},
		"without SETUID":                {"CapEff:\t000001ffffffff7f\n", false},
		"without SETGID":                {"CapEff:\t000001ffffffffbf\n", false},
		"none":                          {"CapEff:\t0000000000000000\n", false},
		"a kernel that is silent on it": {"Name:\tx\n", true},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, canSwitch(c.status)) })
	}
}

func TestABrokenKeyIsRefusedAtTheStart(t *testing.T) {
	for _, cfg := range []Config{{InitKey: "x", SandboxID: sandbox}, {InitKey: base64.StdEncoding.EncodeToString(make([]byte, 32))}} {
		_, err := New(cfg)
		require.Error(t, err)
	}
}

// The program itself: its size, and an end that lets its commands say goodbye.
func TestTheProgram(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "envd")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "github.com/sandgate-dev/sandgate/cmd/envd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	info, err := os.Stat(bin)
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(15<<20))

	daemon := exec.CommandContext(t.Context(), bin, "-addr", "127.0.0.1", "-port", "0")
	logs, err := daemon.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, daemon.Start())
	var line struct{ Address string }
	for scan := bufio.NewScanner(logs); line.Address == "" && scan.Scan(); {
		require.NoError(t, json.Unmarshal(scan.Bytes(), &line))
	}
	go func() { _, _ = io.Copy(io.Discard, logs) }()
	url := "http://" + line.Address
	ready := filepath.Join(t.TempDir(), "ready")
	ended := make(chan []byte)
	go func() {
		_, body := raw(t, url, post("/process.Process/Start", stream, frame(0, `{"process":{"cmd":"/bin/bash","args":["-c","trap 'echo bye; exit 9' TERM; touch `+ready+`; while :; do sleep 0.05; done"],"cwd":"/tmp"},"tag":"it"}`)))
		ended <- body
	}()
	require.Eventually(t, func() bool { _, err := os.Stat(ready); return err == nil }, 20*time.Second, 10*time.Millisecond)
	_, list := raw(t, url, post("/process.Process/List", "application/json", "{}"))
	require.Contains(t, string(list), `"it"`)
	require.NoError(t, daemon.Process.Signal(os.Interrupt))
	got := frames(t, <-ended)
	require.Contains(t, got[len(got)-2], `"exitCode":9`)
	require.Equal(t, "2 {}", got[len(got)-1])
	require.NoError(t, daemon.Wait())
}
