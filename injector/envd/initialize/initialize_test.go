package initialize

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	testclock "k8s.io/utils/clock/testing"
)

const sandbox = "iabc0000000000000000"

func keys(t *testing.T, c *testclock.FakePassiveClock) *Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	s, err := NewSigner(private, c)
	require.NoError(t, err)
	return s
}

func daemon(t *testing.T, v *Verifier) (*State, string) {
	t.Helper()
	state := &State{}
	srv := httptest.NewServer(&Handler{State: state, Verifier: v, Version: "9.9.9", Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(srv.Close)
	return state, srv.URL
}

func TestTheTokenIsAnHMACOfSandboxAndNonce(t *testing.T) {
	// printf 'isb|n1' | openssl dgst -sha256 -hmac key
	require.Equal(t, "eb0b5b45e12e77a2051b25ef7f844555534d0c84024f6c176f4c6b8b38e4f542", Token([]byte("key"), "isb", "n1"))
	require.NotEqual(t, Token([]byte("key"), "isb", "n1"), Token([]byte("key"), "isb", "n2"))
	require.NotEqual(t, Token([]byte("key"), "isb", "n1"), Token([]byte("kez"), "isb", "n1"))
}

func TestASignedInitialisationIsTakenOver(t *testing.T) {
	c := testclock.NewFakePassiveClock(time.Now())
	signer := keys(t, c)
	v, err := NewVerifier(signer.PublicKey(), sandbox, c)
	require.NoError(t, err)
	state, url := daemon(t, v)
	require.False(t, state.Ready())
	require.Equal(t, "root", state.DefaultUser())

	req := Request{AccessToken: "t1", EnvVars: map[string]string{"A": "1"}, DefaultUser: "user", DefaultWorkdir: "/w"}
	version, err := Init(t.Context(), http.DefaultClient, url+"/", sandbox, req, signer)
	require.NoError(t, err)
	require.Equal(t, "9.9.9", version)
	require.True(t, state.Ready())
	require.True(t, state.TokenSet())
	require.True(t, state.Admits("t1"))
	require.False(t, state.Admits("t2"))
	require.False(t, state.Admits(""))
	require.Equal(t, map[string]string{"A": "1"}, state.Env())
	require.Equal(t, "user", state.DefaultUser())
	require.Equal(t, "/w", state.DefaultDir())

	t.Run("again with the same token, and the variables are replaced", func(t *testing.T) {
		_, err := Init(t.Context(), http.DefaultClient, url, sandbox, Request{AccessToken: "t1", EnvVars: map[string]string{"B": "2"}}, signer)
		require.NoError(t, err)
		require.Equal(t, map[string]string{"B": "2"}, state.Env())
		require.Equal(t, "user", state.DefaultUser())
	})
	for name, token := range map[string]string{"another token": "t2", "no token": ""} {
		t.Run("not again with "+name+", even signed", func(t *testing.T) {
			_, err := Init(t.Context(), http.DefaultClient, url, sandbox, Request{AccessToken: token}, signer)
			require.ErrorIs(t, err, ErrRefused)
			require.True(t, state.Admits("t1"))
		})
	}
	t.Run("not a request that was signed before the last one", func(t *testing.T) {
		c.SetTime(c.Now().Add(-time.Minute))
		_, err := Init(t.Context(), http.DefaultClient, url, sandbox, Request{AccessToken: "t1"}, signer)
		require.ErrorIs(t, err, ErrRefused)
	})
}

func TestWhatTheKeyHolderDidNotSignForThisSandboxIsRefused(t *testing.T) {
	now := time.Now()
	c := testclock.NewFakePassiveClock(now)
	signer, stranger := keys(t, c), keys(t, c)
	body := []byte(`{"accessToken":"t"}`)
	signed := func(s *Signer, sandboxID string, body []byte) http.Header {
		h := http.Header{}
		s.sign(h, sandboxID, body)
		return h
	}
	for name, c2 := range map[string]struct {
		header http.Header
		at     time.Time
		code   int
	}{
		"signed for this sandbox, now":           {signed(signer, sandbox, body), now, 204},
		"signed a while ago":                     {signed(signer, sandbox, body), now.Add(14 * time.Minute), 204},
		"signed by a clock that runs ahead":      {signed(signer, sandbox, body), now.Add(-14 * time.Minute), 204},
		"signed too long ago":                    {signed(signer, sandbox, body), now.Add(16 * time.Minute), 401},
		"signed too far in the future":           {signed(signer, sandbox, body), now.Add(-16 * time.Minute), 401},
		"replayed from another sandbox":          {signed(signer, "iother", body), now, 401},
		"signed by somebody else":                {signed(stranger, sandbox, body), now, 401},
		"signed over another body":               {signed(signer, sandbox, []byte(`{"accessToken":"u"}`)), now, 401},
		"not signed":                             {http.Header{}, now, 401},
		"with a signature that is not base64":    {http.Header{signatureHeader: {"%"}, timeHeader: {"1"}}, now, 401},
		"with the time changed after it was set": {withTime(signed(signer, sandbox, body), "1"), now, 401},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := NewVerifier(signer.PublicKey(), sandbox, testclock.NewFakePassiveClock(c2.at))
			require.NoError(t, err)
			state := &State{}
			h := &Handler{State: state, Verifier: v, Log: slog.New(slog.DiscardHandler)}
			r := httptest.NewRequest(http.MethodPost, Path, bytes.NewReader(body))
			r.Header = c2.header
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			require.Equal(t, c2.code, w.Code, w.Body.String())
			require.Equal(t, c2.code == 204, state.Ready())
			requireErrorBody(t, w)
		})
	}
}

func withTime(h http.Header, at string) http.Header {
	h.Set(timeHeader, at)
	return h
}

func requireErrorBody(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	if w.Code == http.StatusNoContent {
		return
	}
	var e struct {
		Code    int
		Message string
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &e))
	require.Equal(t, w.Code, e.Code)
	require.NotEmpty(t, e.Message)
}

func TestWithoutAKeyTheFirstTokenMayBeAny(t *testing.T) {
	for name, c := range map[string]struct {
		bodies []string
		codes  []int
	}{
		"an empty body":                      {[]string{""}, []int{204}},
		"an empty object":                    {[]string{"{}"}, []int{204}},
		"a token later than the first call":  {[]string{"{}", `{"accessToken":"t"}`}, []int{204, 204}},
		"the same token again":               {[]string{`{"accessToken":"t"}`, `{"accessToken":"t"}`}, []int{204, 204}},
		"another token":                      {[]string{`{"accessToken":"t"}`, `{"accessToken":"u"}`}, []int{204, 401}},
		"no token after one":                 {[]string{`{"accessToken":"t"}`, `{}`}, []int{204, 401}},
		"what is not JSON":                   {[]string{"{"}, []int{400}},
		"a list":                             {[]string{"[]"}, []int{400}},
		"a variable without a name":          {[]string{`{"envVars":{"":"x"}}`}, []int{400}},
		"a variable's name with a sign in":   {[]string{`{"envVars":{"A=B":"x"}}`}, []int{400}},
		"a NUL in a value":                   {[]string{`{"envVars":{"A":"\u0000"}}`}, []int{400}},
		"fields of upstream that are no use": {[]string{`{"lifecycleID":"x","volumeMounts":[],"hyperloopIP":null}`}, []int{204}},
		"mounts that would not be made":      {[]string{`{"volumeMounts":[{"nfs_target":"a","path":"/b"}]}`}, []int{501}},
		"certificates":                       {[]string{`{"caBundle":"x"}`}, []int{501}},
		"too much":                           {[]string{`{"envVars":{"A":"` + strings.Repeat("x", maxBody) + `"}}`}, []int{400}},
	} {
		t.Run(name, func(t *testing.T) {
			_, url := daemon(t, nil)
			for i, body := range c.bodies {
				res, err := http.Post(url, "application/json", strings.NewReader(body))
				require.NoError(t, err)
				require.NoError(t, res.Body.Close())
				require.Equal(t, c.codes[i], res.StatusCode)
				require.Equal(t, "9.9.9", res.Header.Get(VersionHeader))
			}
		})
	}
}

func TestAnOlderTimestampChangesNothing(t *testing.T) {
	state, url := daemon(t, nil)
	at := time.Now()
	older := at.Add(-time.Second)
	for _, r := range []Request{{Timestamp: &at, DefaultUser: "new"}, {Timestamp: &older, DefaultUser: "old"}} {
		_, err := Init(t.Context(), http.DefaultClient, url, sandbox, r, nil)
		require.NoError(t, err)
	}
	require.Equal(t, "new", state.DefaultUser())
}

func TestTheTokenIsSentToNobodyElse(t *testing.T) {
	reached := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer other.Close()
	srv := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer srv.Close()
	_, err := Init(t.Context(), http.DefaultClient, srv.URL, sandbox, Request{AccessToken: "t"}, nil)
	require.ErrorContains(t, err, "307")
	require.NotErrorIs(t, err, ErrRefused)
	require.False(t, reached)
}

func TestAnUnreachableDaemonIsNotARefusal(t *testing.T) {
	srv := httptest.NewServer(nil)
	srv.Close()
	_, err := Init(context.Background(), http.DefaultClient, srv.URL, sandbox, Request{}, nil)
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrRefused)
}

func TestARequestPrintsNoSecrets(t *testing.T) {
	r := Request{AccessToken: "canary", EnvVars: map[string]string{"K": "canary"}}
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "request", r)
	_, _ = fmt.Fprintf(io.Writer(&out), "%v %+v %#v %s %q %x %v", r, r, r, r, r, r, &r)
	_, _ = fmt.Fprintf(io.Writer(&out), strings.Repeat("%d ", 1), r)
	require.NotContains(t, out.String(), "canary")
}

func TestKeysOfTheWrongShapeAreRefused(t *testing.T) {
	_, err := NewSigner(make([]byte, 5), nil)
	require.ErrorContains(t, err, "Ed25519")
	for _, k := range []string{"", "x", "AAAA"} {
		_, err := NewVerifier(k, sandbox, nil)
		require.ErrorContains(t, err, "Ed25519")
	}
	s := keys(t, testclock.NewFakePassiveClock(time.Now()))
	_, err = NewVerifier(s.PublicKey(), "", nil)
	require.ErrorContains(t, err, "id")
}

func TestStrangersCannotFillTheLog(t *testing.T) {
	var log bytes.Buffer
	h := &Handler{State: &State{token: "t", ready: true}, Log: slog.New(slog.NewTextHandler(&log, nil))}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, Path, strings.NewReader(`{"accessToken":"other"}`)))
	require.Equal(t, http.StatusUnauthorized, rec.Code)
	require.Contains(t, rec.Body.String(), "another one", "the caller is told, and logs what it will")
	require.Empty(t, log.String())
}

func FuzzInitBody(f *testing.F) {
	for _, s := range []string{"", "{}", `{"accessToken":"t","envVars":{"A":"b"}}`, `{"volumeMounts":[1]}`, "null", `{"timestamp":"x"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		h := &Handler{State: &State{}, Log: slog.New(slog.DiscardHandler)}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, Path, bytes.NewReader(body)))
		require.Contains(t, []int{204, 400, 501}, w.Code)
		requireErrorBody(t, w)
	})
}
