package e2b_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
)

var update = flag.Bool("update", false, "write the golden files")

var someID = regexp.MustCompile(`i[a-z0-9]{19}\b`)

// golden compares an answer with a file, IDs made equal.
func golden(t *testing.T, name string, a answer) {
	t.Helper()
	var pretty bytes.Buffer
	require.NoError(t, json.Indent(&pretty, bytes.TrimSpace(a.body), "", "  "), "%s", a.body)
	got := someID.ReplaceAllString(pretty.String(), "SANDBOX") + "\n"
	file := filepath.Join("testdata", name+".json")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// What SDKs of three generations send, and what they insist on in the answers.
func TestStockSDKsAreAnswered(t *testing.T) {
	w := newWorld(t)
	steps := []struct {
		name, method, path, body string
		status                   int
	}{
		{"create-v1", "POST", "/sandboxes", `{"templateID":"base","metadata":{},"timeout":300,"envVars":{},"secure":true,"allow_internet_access":true,"autoPause":false,"autoResume":{"enabled":false}}`, 201},
		{"create-v2", "POST", "/v2/sandboxes", `{"templateID":"base-v1","metadata":{"purpose":"trace"},"envVars":{"A":"b"},"timeout":120}`, 201},
		{"connect-v1", "POST", "/sandboxes/ID/connect", `{"timeout":300}`, 200},
		{"connect-v2", "POST", "/v2/sandboxes/ID/connect", `{}`, 200},
		{"connect-v2", "POST", "/v2/sandboxes/ID/connect", "", 200},
		{"detail", "GET", "/sandboxes/ID", "", 200},
		{"detail", "GET", "/sandboxes/ID-sandgate", "", 200},
		{"list", "GET", "/v2/sandboxes?metadata=purpose%3Dtrace&state=running", "", 200},
		{"list", "GET", "/sandboxes?metadata=purpose%3Dtrace", "", 200},
		{"metrics-none", "GET", "/sandboxes/ID/metrics", "", 200},
		{"templates", "GET", "/templates", "", 200},
		{"templates", "GET", "/v2/templates", "", 200},
		{"template", "GET", "/templates/base", "", 200},
		{"alias", "GET", "/templates/aliases/base-v1", "", 200},
		{"mounts-none", "GET", "/sandboxes/ID/mounts", "", 200},
	}
	id := ""
	for _, s := range steps {
		a := w.as(aliceKey, s.method, strings.Replace(s.path, "ID", id, 1), map[bool]any{true: nil, false: s.body}[s.body == ""])
		require.Equal(t, s.status, a.status, "%s: %s", s.name, a.body)
		golden(t, s.name, a)
		if s.status == http.StatusCreated {
			id = someID.FindString(string(a.body))
		}
	}
	for _, s := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/sandboxes/ID/timeout", `{"timeout":60}`, 204},
		{"POST", "/sandboxes/ID/refreshes", `{"duration":60}`, 204},
		{"POST", "/sandboxes/ID/refreshes", `{}`, 204},
		{"POST", "/sandboxes/ID/resume", `{"timeout":15}`, 409},
		{"DELETE", "/sandboxes/ID", "", 204},
		{"DELETE", "/sandboxes/ID", "", 404},
		{"POST", "/v2/sandboxes/ID/connect", "{}", 404},
	} {
		a := w.as(aliceKey, s.method, strings.Replace(s.path, "ID", id, 1), s.body)
		require.Equal(t, s.status, a.status, "%s %s: %s", s.method, s.path, a.body)
		if s.status >= 400 {
			_ = a.message(t)
		} else {
			require.Empty(t, a.body)
		}
	}
}

func TestTheTwoGenerationsHaveTheirDefaultTimeouts(t *testing.T) {
	w := newWorld(t)
	for path, want := range map[string]time.Duration{"/sandboxes": 15 * time.Second, "/v2/sandboxes": 300 * time.Second} {
		a := w.as(aliceKey, http.MethodPost, path, `{"templateID":"base"}`)
		require.Equal(t, 201, a.status)
		sb, err := w.pool.Get(t.Context(), warmpool.ID(someID.FindString(string(a.body))))
		require.NoError(t, err)
		require.Equal(t, want, sb.EndAt.Sub(w.clock.Now()), path)
	}
}

func TestTimeoutsFollowE2BsRules(t *testing.T) {
	w := newWorld(t)
	id := w.make(map[string]any{"timeout": 100})
	end := func() time.Duration {
		sb, err := w.pool.Get(t.Context(), warmpool.ID(id))
		require.NoError(t, err)
		return sb.EndAt.Sub(w.clock.Now())
	}
	steps := []struct {
		path, body string
		status     int
		end        time.Duration
	}{
		{"/sandboxes/" + id + "/connect", `{"timeout":5}`, 200, 100 * time.Second},
		{"/v2/sandboxes/" + id + "/connect", `{}`, 200, 300 * time.Second},
		{"/sandboxes/" + id + "/timeout", `{"timeout":7}`, 204, 7 * time.Second},
		{"/sandboxes/" + id + "/refreshes", `{"duration":3}`, 204, 7 * time.Second},
		{"/sandboxes/" + id + "/refreshes", `{"duration":3600}`, 204, time.Hour},
		{"/sandboxes/" + id + "/refreshes", `{"duration":3601}`, 400, time.Hour},
		{"/sandboxes/" + id + "/connect", `{}`, 400, time.Hour},
		{"/sandboxes/" + id + "/connect", `{"timeout":0}`, 400, time.Hour},
		{"/v2/sandboxes/" + id + "/connect", `{"timeout":86401}`, 400, time.Hour},
		{"/v2/sandboxes/" + id + "/connect", `{"autoPause":true}`, 400, time.Hour},
		{"/v2/sandboxes/" + id + "/connect", `{"autoPause":false,"memory":true,"timeout":10}`, 200, time.Hour},
		{"/sandboxes/" + id + "/timeout", `{}`, 400, time.Hour},
		{"/sandboxes/" + id + "/timeout", `{"timeout":-1}`, 400, time.Hour},
		{"/sandboxes/" + id + "/timeout", `{"timeout":1.5}`, 400, time.Hour},
		{"/sandboxes/" + id + "/timeout", `{"timeout":"60"}`, 400, time.Hour},
		{"/sandboxes/" + id + "/timeout", `{"timeout":9223372036854775807}`, 400, time.Hour},
	}
	for _, s := range steps {
		a := w.as(aliceKey, http.MethodPost, s.path, s.body)
		require.Equal(t, s.status, a.status, "%s %s: %s", s.path, s.body, a.body)
		require.Equal(t, s.end, end(), "%s %s", s.path, s.body)
	}
	require.Equal(t, 204, w.as(aliceKey, http.MethodPost, "/sandboxes/"+id+"/timeout", `{"timeout":0}`).status)
	require.Equal(t, 404, w.as(aliceKey, http.MethodGet, "/sandboxes/"+id, nil).status)
}

func TestASandboxIsGoneAtItsEnd(t *testing.T) {
	w := newWorld(t)
	id := w.make(map[string]any{"timeout": 10})
	w.clock.SetTime(w.clock.Now().Add(10 * time.Second))
	_ = w.as(aliceKey, http.MethodGet, "/sandboxes/"+id, nil).message(t)
	require.JSONEq(t, "[]", string(w.as(aliceKey, http.MethodGet, "/v2/sandboxes", nil).body))
}

func TestListsAreFilteredPagedAndOrdered(t *testing.T) {
	w := newWorld(t)
	odd := "50% off+more & co/ü=1"
	var ids []string
	for range 5 {
		w.clock.SetTime(w.clock.Now().Add(time.Second))
		ids = append(ids, w.make(map[string]any{"metadata": map[string]string{"n": "x", "od d": odd}}))
	}
	w.make(map[string]any{"templateID": "plain"})
	fetch := func(query string) ([]string, http.Header) {
		a := w.as(aliceKey, http.MethodGet, "/v2/sandboxes?"+query, nil)
		require.Equal(t, 200, a.status, "%s: %s", query, a.body)
		var got []struct{ SandboxID string }
		require.NoError(t, json.Unmarshal(a.body, &got))
		var out []string
		for _, g := range got {
			out = append(out, g.SandboxID)
		}
		return out, a.header
	}
	// As the SDKs do it: each key and value escaped, then the form, then the query.
	inner := url.Values{strings.ReplaceAll(url.QueryEscape("od d"), "+", "%20"): {strings.ReplaceAll(url.QueryEscape(odd), "+", "%20")}}.Encode()
	got, _ := fetch(url.Values{"metadata": {inner}, "order": {"asc"}}.Encode())
	require.Equal(t, ids, got)
	for query, want := range map[string]int{
		"state=running,paused": 6, "state=running&state=paused": 6, "state=paused": 0, "template=base-v1": 5, "template=PLAIN": 1, "template=none": 0,
		"metadata=n%3Dx": 5, "metadata=n%3Dy": 0, "metadata=n%3Dx%26m%3D1": 0,
		"startedAfter=" + url.QueryEscape(w.clock.Now().Format(time.RFC3339Nano)): 2,
	} {
		got, _ := fetch(query)
		require.Len(t, got, want, query)
	}
	var walked []string
	for next := ""; ; {
		got, header := fetch("limit=2&order=asc&template=base&nextToken=" + next)
		walked = append(walked, got...)
		require.Equal(t, "5", header.Get("X-Total-Running"))
		if next = header.Get("X-Next-Token"); next == "" {
			break
		}
		require.Len(t, got, 2)
	}
	require.Equal(t, ids, walked)
	for _, query := range []string{
		"limit=0", "limit=101", "limit=x", "order=up", "state=dead", "startedAfter=yesterday", "nextToken=%21", "metadata=%25zz", "metadata=a%3D%25zz", "metadata=a%3D1%26a%3D2",
		"metadata=%zz", "metadata=a%3D1;state=running",
	} {
		a := w.as(aliceKey, http.MethodGet, "/v2/sandboxes?"+query, nil)
		require.Equal(t, 400, a.status, query)
		_ = a.message(t)
	}
}

func TestMetricsAreRendered(t *testing.T) {
	w := newWorld(t)
	id := w.make(map[string]any{})
	at := w.clock.Now()
	for i := range 3 {
		w.pool.Samples[warmpool.ID(id)] = append(w.pool.Samples[warmpool.ID(id)], warmpool.Usage{
			At: at.Add(time.Duration(i) * time.Minute), CPUCount: 2, CPUPercent: 12.5, MemUsed: 1, MemTotal: 2, MemCache: 3, DiskUsed: 4, DiskTotal: 5,
		})
	}
	golden(t, "metrics", w.as(aliceKey, http.MethodGet, "/sandboxes/"+id+"/metrics", nil))
	var some []any
	a := w.as(aliceKey, http.MethodGet, "/sandboxes/"+id+"/metrics?start=1767323100&end=1767323110", nil)
	require.NoError(t, json.Unmarshal(a.body, &some), "%s", a.body)
	require.Len(t, some, 1)
	require.Equal(t, 400, w.as(aliceKey, http.MethodGet, "/sandboxes/"+id+"/metrics?start=x", nil).status)
	golden(t, "metrics-many", w.as(aliceKey, http.MethodGet, "/sandboxes/metrics?sandbox_ids="+id+",nonsense,"+string(warmpool.NewID()), nil))
	require.JSONEq(t, `{"sandboxes":{}}`, string(w.as(bobKey, http.MethodGet, "/sandboxes/metrics?sandbox_ids="+id, nil).body))
}

func TestCapacityIsAnsweredWithWholeSecondsToWait(t *testing.T) {
	w := newWorld(t)
	a := w.as(aliceKey, http.MethodPost, "/v2/sandboxes", `{"templateID":"empty"}`)
	require.Equal(t, 429, a.status)
	require.Equal(t, "2", a.header.Get("Retry-After"))
	require.Equal(t, "true", a.header.Get("Should-Retry"))
	require.Contains(t, string(a.body), "sandbox_capacity_unavailable")
	w.pool.OnStart = func(context.Context, warmpool.ID, warmpool.Start) error { return warmpool.ErrUnreachable }
	a = w.as(aliceKey, http.MethodPost, "/v2/sandboxes", `{"templateID":"base"}`)
	require.Equal(t, 503, a.status)
	require.Equal(t, "1", a.header.Get("Retry-After"))
	require.Zero(t, w.pool.Claimed())
}

func TestAConflictThatPassesIsAnsweredWithWholeSecondsToWait(t *testing.T) {
	w := newWorld(t)
	w.pool.OnStart = func(context.Context, warmpool.ID, warmpool.Start) error {
		return &warmpool.Error{Code: warmpool.Conflict, RetryAfter: time.Second, Message: "a request with this Idempotency-Key is being served"}
	}
	a := w.as(aliceKey, http.MethodPost, "/v2/sandboxes", `{"templateID":"base"}`)
	require.Equal(t, 409, a.status)
	require.Equal(t, "1", a.header.Get("Retry-After"))
	require.Equal(t, "true", a.header.Get("Should-Retry"))
}

func TestAFailedMountIsToldAndLeavesNothing(t *testing.T) {
	w := newWorld(t)
	w.pool.OnStart = func(context.Context, warmpool.ID, warmpool.Start) error {
		return &warmpool.Error{
			Code: warmpool.Denied, Message: "mount /data of volume scratch: the storage refuses the credentials", Err: errors.New("s3fs: 403"),
		}
	}
	a := w.as(aliceKey, http.MethodPost, "/v2/sandboxes", `{"templateID":"base","volumeMounts":[{"name":"scratch","path":"/data"}]}`)
	require.Equal(t, 403, a.status)
	require.Contains(t, a.message(t), "/data")
	require.NotContains(t, string(a.body), "s3fs")
	require.Contains(t, w.log.String(), "s3fs: 403", "the operator learns the cause")
	require.Zero(t, w.pool.Claimed())
}

func TestAFaultOfAMountUnderWayIsNotTakenForTheFirstMounts(t *testing.T) {
	w := newWorld(t)
	w.pool.OnStart = func(context.Context, warmpool.ID, warmpool.Start) error {
		return &warmpool.Error{
			Code: warmpool.Invalid, Message: "volume 'pv-nas-fast' at /b could not be mounted: it is reserved",
			Err: mount.Faults{{Field: mount.FieldTarget, Reason: "is reserved"}},
		}
	}
	a := w.as(aliceKey, http.MethodPost, "/v2/sandboxes", `{"templateID":"base","volumeMounts":[{"name":"scratch","path":"/a"},{"name":"pv-nas-fast","path":"/b"}]}`)
	require.Equal(t, 400, a.status)
	require.Equal(t, "volume 'pv-nas-fast' at /b could not be mounted: it is reserved", a.message(t))
}

func TestASDKIsToldNotToRepeatACreateWhoseVolumeFails(t *testing.T) {
	w := newWorld(t)
	for code, status := range map[warmpool.Code]int{
		warmpool.Invalid: 400, warmpool.Denied: 403, warmpool.Conflict: 409, warmpool.Internal: 500, warmpool.Unavailable: 503,
	} {
		w.pool.OnStart = func(context.Context, warmpool.ID, warmpool.Start) error {
			return &warmpool.Error{Code: code, Message: "volume 'scratch' at /data could not be mounted", Err: errors.New("why")}
		}
		a := w.as(aliceKey, http.MethodPost, "/v2/sandboxes", `{"templateID":"base","volumeMounts":[{"name":"scratch","path":"/data"}]}`)
		require.Equal(t, status, a.status)
		require.Equal(t, "false", a.header.Get("Should-Retry"), "%d", status)
		require.Empty(t, a.header.Get("Retry-After"))
		require.Contains(t, a.message(t), "volume 'scratch' at /data", "also of an internal error: its message is the caller's")
	}
	require.Zero(t, w.pool.Claimed())
}

func TestInternalErrorsKeepTheirTextInTheLog(t *testing.T) {
	w := newWorld(t)
	for name, fail := range map[string]func() error{
		"error": func() error { return os.ErrPermission },
		"panic": func() error { panic("at /host/path") },
	} {
		w.pool.OnStart = func(context.Context, warmpool.ID, warmpool.Start) error { return fail() }
		a := w.as(aliceKey, http.MethodPost, "/v2/sandboxes", `{"templateID":"base"}`)
		require.Equal(t, 500, a.status, name)
		require.Contains(t, a.message(t), a.header.Get("X-Request-Id"), name)
		require.NotContains(t, string(a.body), "permission")
		require.NotContains(t, string(a.body), "/host/path")
		require.Zero(t, w.pool.Claimed(), name)
	}
	require.Contains(t, w.log.String(), "permission denied")
	require.Contains(t, w.log.String(), "/host/path")
}

func TestARequestIsNamedInAnswerAndLogWithoutItsBody(t *testing.T) {
	w := newWorld(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+"/v2/sandboxes", strings.NewReader(`{"templateID":"base","envVars":{"A":"canary-env"},"metadata":{"m":"canary-meta"}}`))
	require.NoError(t, err)
	req.Header.Set("X-Api-Key", aliceKey)
	req.Header.Set("X-Request-Id", "mine-1")
	a := w.do(req)
	require.Equal(t, 201, a.status)
	require.Equal(t, "mine-1", a.header.Get("X-Request-Id"))
	line := w.log.String()
	for _, want := range []string{`"request":"mine-1"`, `"route":"/v2/sandboxes"`, `"status":201`, `"team":"alice"`, `"key":"key-1"`, someID.FindString(string(a.body))} {
		require.Contains(t, line, want)
	}
	for _, secret := range []string{"canary-env", "canary-meta", aliceKey, "token-of-"} {
		require.NotContains(t, line, secret)
	}
	refused := w.as(aliceKey, http.MethodPost, "/v2/sandboxes", `{"templateID":"base","metadata":{"e2b.agents.kruise.io/csi-canary-meta":"x"},"volumeMounts":[{"name":"canary-volume","path":"/d"}]}`)
	require.Equal(t, 400, refused.status)
	require.NotContains(t, w.log.String(), "canary")
	req.Header.Set("X-Request-Id", "evil id")
	req.Body = http.NoBody
	req.ContentLength = 0
	require.Regexp(t, `^[0-9a-f]{24}$`, w.do(req).header.Get("X-Request-Id"))
}
