package attacks_test

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/gateway/auth"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// routes are all that name a sandbox.
var routes = []struct{ method, path, body string }{
	{http.MethodGet, "/sandboxes/ID", ""},
	{http.MethodGet, "/sandboxes/ID/mounts", ""},
	{http.MethodGet, "/sandboxes/ID/metrics", ""},
	{http.MethodPost, "/sandboxes/ID/timeout", `{"timeout":1}`},
	{http.MethodPost, "/sandboxes/ID/refreshes", `{"duration":1}`},
	{http.MethodPost, "/sandboxes/ID/connect", `{"timeout":1}`},
	{http.MethodPost, "/v2/sandboxes/ID/connect", `{"timeout":1}`},
	{http.MethodPost, "/sandboxes/ID/resume", `{"timeout":1}`},
	{http.MethodDelete, "/sandboxes/ID", ""},
}

func TestAnothersSandboxIsAsUnknownAsOneThatNeverWas(t *testing.T) {
	s := begin(t)
	mine := s.sandbox(t, mount{Volume: "scratch", Target: "/data"})
	ended := s.sandbox(t)
	require.NoError(t, s.Kill(t.Context(), ended))
	other := s.secondKey(t)
	never := string(warmpool.NewID())
	for _, r := range routes {
		request := func(key, id string) (int, string) {
			status, body := s.ask(t, key, r.method, strings.Replace(r.path, "ID", id, 1), r.body)
			return status, strings.ReplaceAll(body, id, "ID")
		}
		status, body := request(s.Key, never)
		require.Equal(t, http.StatusNotFound, status, r.path)
		for name, id := range map[string]string{"another's": mine.ID, "one that never was": never, "one that ended": ended.ID} {
			gotStatus, got := request(other, id)
			require.Equal(t, status, gotStatus, "%s %s", r.path, name)
			require.Equal(t, body, got, "%s %s", r.path, name)
		}
		gotStatus, got := request(s.Key, ended.ID)
		require.Equal(t, status, gotStatus, r.path)
		require.Equal(t, body, got, r.path)
		for _, id := range []string{"x", "UPPER", "i%00", "..%2f..", strings.Repeat("a", 300), mine.ID + "x", "%F0%9F%98%80"} {
			gotStatus, got := request(s.Key, id)
			require.Contains(t, []int{http.StatusNotFound, http.StatusBadRequest}, gotStatus, "%s %s: %s", r.path, id, got)
		}
	}
	_, list := s.ask(t, other, http.MethodGet, "/v2/sandboxes", "")
	require.JSONEq(t, "[]", list)
	_, list = s.ask(t, other, http.MethodGet, "/sandboxes/metrics?sandbox_ids="+mine.ID, "")
	require.NotContains(t, strings.ReplaceAll(list, "sandbox", ""), `"cpu`)
	require.Equal(t, "fine\n", s.sh(t, mine, "user", "echo fine"), "nothing of that has touched it")
	for _, key := range []string{"", "x", "e2b_" + strings.Repeat("0", 40), s.Key + "0", s.Key[:len(s.Key)-1], strings.ToUpper(s.Key)} {
		status, body := s.ask(t, key, http.MethodGet, "/sandboxes/"+mine.ID, "")
		require.Equal(t, http.StatusUnauthorized, status, body)
		require.NotContains(t, body, mine.ID)
	}
}

// secondKey gives another team a key, as an operator would, and restarts the gateway with it.
func (s *stage) secondKey(t *testing.T) string {
	t.Helper()
	require.NoError(t, s.Stop(t.Context()))
	file := filepath.Join(s.State(), "api-keys.json")
	keys, err := auth.Load(file)
	require.NoError(t, err)
	key := auth.Generate()
	require.NoError(t, keys.Add("other", "other", key, time.Now()))
	require.NoError(t, keys.Save(file))
	require.NoError(t, s.Serve(t.Context()))
	return key.Reveal()
}
