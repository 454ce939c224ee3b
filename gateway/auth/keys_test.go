package auth_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/gateway/auth"
	"github.com/sandgate-dev/sandgate/warmpool"
)

var then = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestAKeyHasTheFormThatSDKsCheck(t *testing.T) {
	k := auth.Generate()
	require.Regexp(t, regexp.MustCompile(`^e2b_[0-9a-f]{40}$`), k.Reveal())
	require.NotEqual(t, k, auth.Generate())
}

func TestAKeyDoesNotPrintItself(t *testing.T) {
	k := auth.Generate()
	raw, err := json.Marshal(map[string]any{"k": k})
	require.NoError(t, err)
	for _, text := range []string{fmt.Sprint(k), fmt.Sprintf("%v %s %q %#v %+v %d", k, k, k, k, k, any(k)), k.LogValue().String(), string(raw)} {
		require.NotContains(t, text, k.Reveal()[4:])
	}
}

func TestOnlyAKnownKeyIsFound(t *testing.T) {
	k := auth.Generate()
	keys := &auth.Keys{}
	require.NoError(t, keys.Add("k1", "red", k, then))
	got, ok := keys.Lookup(k.Reveal())
	require.True(t, ok)
	require.Equal(t, warmpool.Principal{Team: "red", Key: "k1"}, got)
	for _, other := range []string{"", "e2b_", auth.Generate().Reveal(), k.Reveal() + " ", strings.ToUpper(k.Reveal()), k.Hash()} {
		_, ok := keys.Lookup(other)
		require.False(t, ok, other)
	}
}

func TestWhatIsRefusedAsAKey(t *testing.T) {
	k := auth.Generate()
	keys := &auth.Keys{}
	require.NoError(t, keys.Add("k1", "red", k, then))
	require.ErrorContains(t, keys.Add("k1", "red", auth.Generate(), then), "taken")
	require.ErrorContains(t, keys.Add("k2", "red", k, then), "another id")
	require.ErrorContains(t, keys.Add("k3", "", auth.Generate(), then), "required")
	require.ErrorContains(t, keys.Add("k4", "red", auth.Key("e2b_short"), then), "40 lowercase")
	require.Len(t, keys.Records(), 1)
}

func TestKeysAreStoredAsHashesForTheirOwnerOnly(t *testing.T) {
	k := auth.Generate()
	keys := &auth.Keys{}
	require.NoError(t, keys.Add("k1", "red", k, then))
	path := filepath.Join(t.TempDir(), "keys.json")
	require.NoError(t, keys.Save(path))
	require.NoError(t, keys.Save(path), "saving again replaces")
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotContains(t, string(raw), k.Reveal()[4:])
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1)

	again, err := auth.Load(path)
	require.NoError(t, err)
	require.Equal(t, keys.Records(), again.Records())
	_, ok := again.Lookup(k.Reveal())
	require.True(t, ok)
}

func TestAKeyFileThatCannotBeTrustedIsRefused(t *testing.T) {
	hash := auth.Generate().Hash()
	cases := []struct {
		name, content string
		mode          os.FileMode
		want          string
	}{
		{"readable by others", `{"keys":[]}`, 0o644, "want 0600"},
		{"not JSON", `keys`, 0o600, "invalid character"},
		{"unknown field", `{"keys":[{"id":"a","team":"b","hash":"` + hash + `","admin":true}]}`, 0o600, "unknown field"},
		{"half a hash", `{"keys":[{"id":"a","team":"b","hash":"abc"}]}`, 0o600, "64 hexadecimal"},
		{"no team", `{"keys":[{"id":"a","hash":"` + hash + `"}]}`, 0o600, "required"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys.json")
			require.NoError(t, os.WriteFile(path, []byte(c.content), 0o600))
			require.NoError(t, os.Chmod(path, c.mode))
			_, err := auth.Load(path)
			require.ErrorContains(t, err, c.want)
		})
	}
	none, err := auth.Load(filepath.Join(t.TempDir(), "missing"))
	require.NoError(t, err)
	require.Empty(t, none.Records())
}

func TestWhereARequestCarriesItsKey(t *testing.T) {
	cases := []struct {
		name   string
		header map[string][]string
		want   string
		ok     bool
	}{
		{"as SDKs send it", map[string][]string{"X-API-KEY": {"k"}}, "k", true},
		{"as the specification spells it", map[string][]string{"X-API-Key": {"k"}}, "k", true},
		{"as a bearer token", map[string][]string{"Authorization": {"bearer k"}}, "k", true},
		{"the key's own header wins", map[string][]string{"X-API-Key": {"k"}, "Authorization": {"Bearer z"}}, "k", true},
		{"twice", map[string][]string{"X-API-Key": {"k", "k"}}, "", false},
		{"empty", map[string][]string{"X-API-Key": {""}, "Authorization": {"Bearer k"}}, "", false},
		{"another scheme", map[string][]string{"Authorization": {"Basic k"}}, "", false},
		{"nowhere", nil, "", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			for name, values := range c.header {
				for _, v := range values {
					r.Header.Add(name, v)
				}
			}
			got, ok := auth.FromRequest(r)
			require.Equal(t, c.ok, ok)
			require.Equal(t, c.want, got)
		})
	}
}

func TestARequestIsItsKeysPrincipals(t *testing.T) {
	k := auth.Generate()
	keys := &auth.Keys{}
	require.NoError(t, keys.Add("k1", "red", k, then))
	r := httptest.NewRequest("GET", "/", nil)
	_, ok := keys.Authenticate(r)
	require.False(t, ok)
	r.Header.Set("X-API-Key", k.Reveal())
	p, ok := keys.Authenticate(r)
	require.True(t, ok)
	require.Equal(t, warmpool.Principal{Team: "red", Key: "k1"}, p)
}

func TestKeysAreReplacedWhileRequestsGoOn(t *testing.T) {
	var current auth.Current
	k := auth.Generate()
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X-API-Key", k.Reveal())
	_, ok := current.Authenticate(r)
	require.False(t, ok, "nobody is known before the first keys")
	require.Zero(t, current.Len())

	keys, err := auth.Read([]byte(`{"keys":[{"id":"k1","team":"red","hash":"` + k.Hash() + `","created":"2026-01-01T00:00:00Z"}]}`))
	require.NoError(t, err)
	current.Set(keys)
	require.Equal(t, 1, current.Len())
	p, ok := current.Authenticate(r)
	require.True(t, ok)
	require.Equal(t, "red", p.Team)

	current.Set(&auth.Keys{})
	_, ok = current.Authenticate(r)
	require.False(t, ok, "a key that was taken out counts no more")

	_, err = auth.Read([]byte(`{"keys":[]}{"keys":[]}`))
	require.ErrorContains(t, err, "follows")
}
