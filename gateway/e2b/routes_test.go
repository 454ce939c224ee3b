package e2b_test

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/gateway/e2b"
	"github.com/sandgate-dev/sandgate/warmpool"
)

type routeCase struct {
	method, path, body string
	own, foreign       int
}

// every route with the status that its owner gets with an empty or minimal body.
var everyRoute = []routeCase{
	{"POST", "/sandboxes", `{"templateID":"none"}`, 404, 404},
	{"POST", "/v2/sandboxes", `{"templateID":"none"}`, 404, 404},
	{"GET", "/sandboxes", "", 200, 200},
	{"GET", "/v2/sandboxes", "", 200, 200},
	{"GET", "/sandboxes/metrics?sandbox_ids=ID", "", 200, 200},
	{"GET", "/sandboxes/ID", "", 200, 404},
	{"POST", "/sandboxes/ID/connect", `{"timeout":60}`, 200, 404},
	{"POST", "/v2/sandboxes/ID/connect", "", 200, 404},
	{"POST", "/sandboxes/ID/resume", "{}", 409, 404},
	{"POST", "/sandboxes/ID/timeout", `{"timeout":60}`, 204, 404},
	{"POST", "/sandboxes/ID/refreshes", "", 204, 404},
	{"GET", "/sandboxes/ID/metrics", "", 200, 404},
	{"GET", "/sandboxes/ID/mounts", "", 200, 404},
	{"POST", "/sandboxes/ID/mounts", `{"pvName":"scratch","mountPath":"/data","mountID":"mine"}`, 201, 404},
	{"GET", "/sandboxes/ID/mounts/mine", "", 200, 404},
	{"DELETE", "/sandboxes/ID/mounts/mine", "", 204, 404},
	{"GET", "/templates", "", 200, 200},
	{"GET", "/v2/templates", "", 200, 200},
	{"GET", "/templates/base", "", 200, 200},
	{"GET", "/templates/aliases/base", "", 200, 200},
	{"POST", "/sandboxes/ID/pause", "{}", 501, 501},
	{"POST", "/sandboxes/ID/fork", "", 501, 501},
	{"POST", "/sandboxes/ID/snapshots", "", 501, 501},
	{"PUT", "/sandboxes/ID/network", "", 501, 501},
	{"GET", "/sandboxes/ID/logs", "", 501, 501},
	{"GET", "/v2/sandboxes/ID/logs", "", 501, 501},
	{"GET", "/snapshots", "", 501, 501},
	{"GET", "/volumes", "", 501, 501},
	{"POST", "/volumes", `{"name":"x"}`, 501, 501},
	{"GET", "/volumes/x", "", 501, 501},
	{"DELETE", "/volumes/x", "", 501, 501},
	{"GET", "/volumecontent/x/path?path=/a", "", 501, 501},
	{"PATCH", "/volumecontent/x/path?path=/a", "{}", 501, 501},
	{"DELETE", "/volumecontent/x/path?path=/a", "", 501, 501},
	{"GET", "/volumecontent/x/dir?path=/a", "", 501, 501},
	{"POST", "/volumecontent/x/dir?path=/a", "", 501, 501},
	{"GET", "/volumecontent/x/file?path=/a", "", 501, 501},
	{"PUT", "/volumecontent/x/file?path=/a", "text", 501, 501},
	{"GET", "/secrets", "", 501, 501},
	{"POST", "/secrets", "{}", 501, 501},
	{"GET", "/secrets/a", "", 501, 501},
	{"POST", "/secrets/a", "{}", 501, 501},
	{"DELETE", "/secrets/a", "", 501, 501},
	{"GET", "/default-templates", "", 501, 501},
	{"POST", "/templates", "{}", 501, 501},
	{"POST", "/v2/templates", "{}", 501, 501},
	{"POST", "/v3/templates", "{}", 501, 501},
	{"POST", "/templates/a", "{}", 501, 501},
	{"PATCH", "/templates/a", "{}", 501, 501},
	{"PATCH", "/v2/templates/a", "{}", 501, 501},
	{"DELETE", "/templates/team%2Fsnap%3Av1", "", 501, 501},
	{"GET", "/templates/a/files/b", "", 501, 501},
	{"POST", "/templates/a/builds/b", "{}", 501, 501},
	{"POST", "/v2/templates/a/builds/b", "{}", 501, 501},
	{"GET", "/templates/a/builds/b/status", "", 501, 501},
	{"GET", "/templates/a/builds/b/logs", "", 501, 501},
	{"POST", "/templates/tags", "{}", 501, 501},
	{"DELETE", "/templates/tags", "", 501, 501},
	{"GET", "/templates/a/tags", "", 501, 501},
	{"GET", "/templates/a/tags/count", "", 501, 501},
	{"GET", "/templates/a/tags/exists", "", 501, 501},
	{"GET", "/templates/a/tags/groups", "", 501, 501},
	{"GET", "/templates/a/tags/b/assignments", "", 501, 501},
	{"GET", "/teams", "", 501, 501},
	{"GET", "/teams/a/metrics", "", 501, 501},
	{"GET", "/teams/a/metrics/max", "", 501, 501},
	{"GET", "/api-keys", "", 501, 501},
	{"POST", "/api-keys", "{}", 501, 501},
	{"PATCH", "/api-keys/a", "{}", 501, 501},
	{"DELETE", "/api-keys/a", "", 501, 501},
	{"POST", "/access-tokens", "{}", 501, 501},
	{"DELETE", "/access-tokens/a", "", 501, 501},
	{"GET", "/nodes", "", 501, 501},
	{"GET", "/nodes/a", "", 501, 501},
	{"POST", "/nodes/a", "{}", 501, 501},
	{"DELETE", "/sandboxes/ID", "", 204, 404}, // last: it ends the sandbox
}

func TestEveryRouteAsksForAKeyAndKeepsTeamsApart(t *testing.T) {
	w := newWorld(t)
	id := w.make(map[string]any{})
	unknown := string(warmpool.NewID())
	for _, r := range everyRoute {
		name := r.method + " " + r.path
		path := strings.ReplaceAll(r.path, "ID", id)
		for _, key := range []string{"", "e2b_cccc", aliceKey[:7]} {
			a := w.as(key, r.method, path, r.body)
			require.Equal(t, 401, a.status, "%s with key %q", name, key)
			_ = a.message(t)
		}
		foreign := w.as(bobKey, r.method, path, r.body)
		require.Equal(t, r.foreign, foreign.status, "%s by another team: %s", name, foreign.body)
		if strings.Contains(r.path, "/ID") && r.foreign == 404 {
			missing := w.as(bobKey, r.method, strings.ReplaceAll(r.path, "ID", unknown), r.body)
			require.Equal(t, strings.ReplaceAll(string(foreign.body), id, "X"), strings.ReplaceAll(string(missing.body), unknown, "X"), name)
		}
		own := w.as(aliceKey, r.method, path, r.body)
		require.Equal(t, r.own, own.status, "%s: %s", name, own.body)
		if r.own >= 400 {
			_ = own.message(t)
		}
		// A path below a route is no route.
		below := strings.Split(path, "?")[0] + "/x/y/z/deeper"
		require.Equal(t, 404, w.as(aliceKey, r.method, below, r.body).status, "%s", below)
	}
	require.Zero(t, w.pool.Claimed())
}

// A route that is added has to be added to the matrix too.
func TestNoRouteIsMissingInTheMatrix(t *testing.T) {
	for _, pattern := range e2b.Patterns() {
		method, path, _ := strings.Cut(pattern, " ")
		shape := regexp.MustCompile("^" + regexp.MustCompile(`:[a-z]+`).ReplaceAllString(path, "[^/]+") + "$")
		require.True(t, slices.ContainsFunc(everyRoute, func(r routeCase) bool {
			tried, _, _ := strings.Cut(r.path, "?")
			return r.method == method && shape.MatchString(tried)
		}), pattern)
	}
}

func TestUnknownPathsAndMethodsAreJSONToo(t *testing.T) {
	w := newWorld(t)
	id := w.make(map[string]any{})
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/", 404},
		{"GET", "/nothing", 404},
		{"GET", "/sandboxes/", 404},
		{"GET", "/v3/sandboxes", 404},
		{"GET", "//sandboxes", 404},
		{"GET", "/sandboxes/../sandboxes", 404},
		{"GET", "/sandboxes/" + id + "/files", 404},
		{"GET", "/sandboxes/" + id + "/metrics/", 404},
		{"GET", "/sandboxes/" + id + "%2Fmounts", 404},
		{"GET", "/sandboxes/x", 404},
		{"GET", "/sandboxes/I" + id[1:], 404},
		{"GET", "/sandboxes/" + id + "x", 404},
		{"DELETE", "/sandboxes/metrics", 404},
		{"GET", "/volumes/x/y", 404},
		{"PUT", "/volumes/x/y", 404},
		{"GET", "/templates/aliases/a/b", 404},
		{"PUT", "/sandboxes", 405},
		{"PATCH", "/v2/sandboxes", 405},
		{"POST", "/sandboxes/" + id, 405},
		{"GET", "/sandboxes/" + id + "/timeout", 405},
		{"POST", "/health", 405},
	} {
		a := w.as(aliceKey, c.method, c.path, nil)
		require.Equal(t, c.status, a.status, "%s %s: %s", c.method, c.path, a.body)
		_ = a.message(t)
		if c.status == 405 {
			require.NotEmpty(t, a.header.Get("Allow"))
		}
	}
	require.Equal(t, 1, w.pool.Claimed())
}

func TestHealthNeedsNoKey(t *testing.T) {
	w := newWorld(t)
	require.Equal(t, 204, w.as("", http.MethodGet, "/health", nil).status)
	require.Equal(t, 204, w.as("", http.MethodHead, "/health", nil).status)
}

func TestNamesOfTemplatesAreReadByE2BsRules(t *testing.T) {
	w := newWorld(t)
	for path, status := range map[string]int{
		"/templates/aliases/BASE": 200, "/templates/aliases/base%3Adefault": 200, "/templates/aliases/base:default": 200,
		"/templates/aliases/base:v9": 404, "/templates/aliases/team%2Fbase": 404, "/templates/none": 404,
	} {
		require.Equal(t, status, w.as(aliceKey, http.MethodGet, path, nil).status, path)
	}
}

func TestTemplatesArePaged(t *testing.T) {
	w := newWorld(t)
	a := w.as(aliceKey, http.MethodGet, "/v2/templates?limit=2", nil)
	require.Equal(t, 200, a.status)
	require.Contains(t, string(a.body), `"base"`)
	next := a.header.Get("X-Next-Token")
	require.NotEmpty(t, next)
	a = w.as(aliceKey, http.MethodGet, "/v2/templates?limit=2&nextToken="+next, nil)
	require.NotContains(t, string(a.body), `"base"`)
	require.Contains(t, string(a.body), `"plain"`)
	require.Empty(t, a.header.Get("X-Next-Token"))
	require.Equal(t, 400, w.as(aliceKey, http.MethodGet, "/v2/templates?nextToken=%21", nil).status)
}

func TestAnIncompleteHandlerIsRefused(t *testing.T) {
	_, err := e2b.New(nil, nil, e2b.Config{})
	require.Error(t, err)
}
