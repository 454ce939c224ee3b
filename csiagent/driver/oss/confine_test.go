package oss

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAClientIsKeptWithinItsPrefix(t *testing.T) {
	o := origin{Scheme: "https", Host: "s3.example.com", Bucket: "data", Prefix: "team/a"}
	for name, c := range map[string]struct {
		method, host, path, from string
		want                     int // 0: it goes to the store
	}{
		"an object":                     {"GET", o.Host, "/data/team/a/f", "", 0},
		"the directory":                 {"HEAD", o.Host, "/data/team/a/", "", 0},
		"the bucket in the name":        {"PUT", "data." + o.Host, "/team/a/f", "", 0},
		"a list of it":                  {"GET", o.Host, "/data/?delimiter=%2F&prefix=team%2Fa%2F", "", 0},
		"a copy in it":                  {"PUT", o.Host, "/data/team/a/f", "/data/team/a/g%20h", 0},
		"a neighbour":                   {"GET", o.Host, "/data/team/b/f", "", 404},
		"one that begins alike":         {"GET", o.Host, "/data/team/ab", "", 404},
		"a neighbour is not written":    {"PUT", o.Host, "/data/team/b/f", "", 403},
		"a climb":                       {"GET", o.Host, "/data/team/a/../b/f", "", 404},
		"an encoded climb":              {"GET", o.Host, "/data/team/a/%2e%2e/b/f", "", 404},
		"another bucket":                {"GET", o.Host, "/other/team/a/f", "", 403},
		"the bucket's name as a prefix": {"GET", "data." + o.Host, "/data/team/a/f", "", 404},
		"a list of a neighbour":         {"GET", o.Host, "/data/?prefix=team%2Fb%2F", "", 403},
		"a list of what begins alike":   {"GET", o.Host, "/data/?prefix=team%2Fa", "", 403},
		"a list of two":                 {"GET", o.Host, "/data/?prefix=team%2Fa%2F&prefix=", "", 403},
		"a property of the bucket":      {"GET", o.Host, "/data/?policy", "", 403},
		"a change of the bucket":        {"PUT", o.Host, "/data/?prefix=team%2Fa%2F&acl", "", 403},
		"many at once":                  {"POST", o.Host, "/data/?delete", "", 403},
		"a copy of a neighbour's":       {"PUT", o.Host, "/data/team/a/f", "/data/team/b/f", 403},
		"a copy of an encoded climb":    {"PUT", o.Host, "/data/team/a/f", "/data/team/a/%2e%2e/b/f", 403},
		"a copy from another bucket":    {"PUT", o.Host, "/data/team/a/f", "/other/team/a/f", 403},
	} {
		t.Run(name, func(t *testing.T) {
			for _, dialect := range []string{"X-Amz-", "X-Oss-"} {
				r, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+c.host+c.path, http.NoBody)
				require.NoError(t, err)
				if c.from != "" {
					r.Header.Set(dialect+"Copy-Source", c.from)
				}
				require.Equal(t, c.want, refusal(t, o, r), dialect)
			}
		})
	}
	link, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+o.Host+"/data/team/a/l?symlink", http.NoBody)
	require.NoError(t, err)
	require.Zero(t, refusal(t, o, link))
	link.Header.Set("X-Oss-Symlink-Target", "team/b/f")
	require.Equal(t, http.StatusForbidden, refusal(t, o, link), "the store would follow it")
	whole, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+o.Host+"/data/?list-type=2", http.NoBody)
	require.NoError(t, err)
	require.Nil(t, o.confine(whole))
	require.Equal(t, "list-type=2&max-keys=1&prefix=team%2Fa%2F", whole.URL.RawQuery)
}

// refusal is the status that a request is answered with in the store's place, 0 for one that goes there.
func refusal(t *testing.T, o origin, r *http.Request) int {
	t.Helper()
	res := o.confine(r)
	if res == nil {
		return 0
	}
	require.NoError(t, res.Body.Close())
	return res.StatusCode
}
