package oss

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

func TestARoleIsTakenOnWithTheAgentsTokenAndRenewedBeforeItEnds(t *testing.T) {
	i, w := startIssuer(t), newWorld(t)
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("JWTCANARY\n"), 0o600))
	var exchanges atomic.Int32
	sts := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.FormValue("OIDCToken") != "JWTCANARY" || r.FormValue("RoleArn") != "acs:ram::1:role/reader" || r.FormValue("Action") != "AssumeRoleWithOIDC" {
			rw.WriteHeader(http.StatusForbidden)
			_, _ = rw.Write([]byte("JWTCANARY"))
			return
		}
		s := i.issue(t)
		s["Expiration"] = time.Now().Add(3 * time.Second).UTC().Format(time.RFC3339)
		exchanges.Add(1)
		_ = json.NewEncoder(rw).Encode(map[string]any{"Credentials": map[string]string(s)})
	}))
	defer sts.Close()
	w.config.Identity = OIDC{Endpoint: sts.URL, TokenFile: file, Client: sts.Client()}
	m := i.mount(nil)
	m.Attributes["authType"], m.Attributes["roleArn"], m.Attributes["oidcProviderArn"] = "rrsa", "acs:ram::1:role/reader", "acs:ram::1:oidc-provider/c"
	require.NoError(t, Check(m, local))
	require.NoError(t, w.Check(m))
	require.ErrorContains(t, New(Config{Guard: local}).Check(m), "rrsa")
	w.up(t, bare(m))
	require.Eventually(t, func() bool { return exchanges.Load() >= 3 }, 30*time.Second, 10*time.Millisecond, "before they end")
	_, err := os.ReadDir(w.dir)
	require.NoError(t, err)

	m.Attributes["roleArn"] = "acs:ram::1:role/other"
	_, err = newWorld(t).with(w.config).Mount(t.Context(), m, t.TempDir())
	require.ErrorIs(t, err, mount.ErrDenied)
	require.NotContains(t, err.Error(), "CANARY")
	for what, o := range map[string]OIDC{
		"nobody there": {Endpoint: "https://127.0.0.1:1", TokenFile: file}, "no token": {Endpoint: sts.URL, TokenFile: file + "x"}, "in the open": {Endpoint: "http://127.0.0.1:1", TokenFile: file},
	} {
		_, err := o.Exchange(t.Context(), Role{"a", "b"})
		require.Error(t, err, what)
		require.NotContains(t, err.Error(), "CANARY")
	}
}

// with is the world with other settings.
func (w world) with(c Config) world {
	c.Logger = w.config.Logger
	w.Driver = New(c)
	return w
}

// slow is a token service that answers when the test lets it, and the holder that it is asked for.
type slow struct {
	asked, proceed chan struct{}
	closed, late   atomic.Bool
}

func (s *slow) Exchange(context.Context, Role) (mount.Secret, error) {
	s.asked <- struct{}{}
	<-s.proceed
	return mount.Secret{"AccessKeyId": "A", "AccessKeySecret": "S", "SecurityToken": "T"}, nil
}

func (s *slow) replace(context.Context, credentials) error {
	s.late.Store(s.closed.Load())
	return nil
}

func (s *slow) trouble() error { return nil }

func (s *slow) close() { s.closed.Store(true) }

// The room's number may be another client's by then.
func TestNoCredentialsAreWrittenToARoomThatIsClosed(t *testing.T) {
	s := &slow{asked: make(chan struct{}), proceed: make(chan struct{})}
	d := New(Config{Identity: s})
	h := d.refresh(volume{role: Role{"a", "b"}, keys: credentials{expires: time.Now()}}, s, func(credentials) {})
	<-s.asked
	closed := make(chan struct{})
	go func() { h.close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(50 * time.Millisecond):
	}
	close(s.proceed)
	<-closed
	require.Never(t, s.late.Load, 50*time.Millisecond, 5*time.Millisecond)
}
