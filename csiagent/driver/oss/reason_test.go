package oss

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// The kernel tells of a client's end before it has been reaped: who asks in between is told what is known.
func TestTheEndOfAClientThatIsNotReapedYetIsTold(t *testing.T) {
	log, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	d := New(Config{Logger: slog.New(slog.DiscardHandler)})
	c := &client{log: log, done: make(chan struct{})}
	begin := time.Now()
	require.ErrorIs(t, d.reason(t.Context(), c, errEnded), errUnsaid)
	require.GreaterOrEqual(t, time.Since(begin), explainGrace, "it was waited for")
}

// A client may go on trying for as long as it likes; whoever stands by it knows already.
func TestAStoreThatIsNotTrustedIsToldWhileItsClientLivesAndNoLongerThanItIsSo(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: makes a file system")
	}
	store := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer store.Close()
	to, err := url.Parse(store.URL)
	require.NoError(t, err)
	r, err := newRoom()
	require.NoError(t, err)
	d := New(Config{Guard: local, Logger: slog.New(slog.DiscardHandler)})
	s, err := newSigner(r, origin{Scheme: to.Scheme, Host: to.Host, Bucket: "data", Unsigned: true}, credentials{}, d.dialer().DialContext, d.config.Logger)
	require.NoError(t, err)
	defer s.close()
	c := &client{process: mount.Process{PID: 1}, done: make(chan struct{})}
	d.keep(c, s)
	ask := func() int {
		w := httptest.NewRecorder()
		s.server.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://"+to.Host+"/data/f", http.NoBody))
		return w.Code
	}
	require.NoError(t, d.Explain(t.Context(), c.process))
	require.Equal(t, http.StatusBadRequest, ask())
	require.ErrorIs(t, d.Explain(t.Context(), c.process), errUntrusted)
	s.transport.TLSClientConfig = &tls.Config{RootCAs: store.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	require.Equal(t, http.StatusOK, ask())
	require.NoError(t, d.Explain(t.Context(), c.process), "it is trusted by now")
}

func TestCredentialsThatAClientGotLaterAreNotToldOfItEither(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: makes a file system")
	}
	r, err := newRoom()
	require.NoError(t, err)
	h, err := newTokens(r, credentials{id: "A1", secret: "S1", token: "T1"})
	require.NoError(t, err)
	defer h.close()
	log, err := logFile()
	require.NoError(t, err)
	defer func() { _ = log.Close() }()
	p := mount.Process{PID: 1}
	c := &client{process: p, log: log, done: make(chan struct{})}
	d := New(Config{})
	d.keep(c, h)
	m := mount.Mount{Attributes: map[string]string{"bucket": "data", "url": "http://store", "fuseType": "ossfs2"}}
	for i := range 20 {
		m.Secret = mount.Secret{"AccessKeyId": fmt.Sprint("CANARY-id", i), "AccessKeySecret": "CANARY-secret", "SecurityToken": "CANARY-token"}
		require.NoError(t, d.Renew(t.Context(), p, m))
		_, err = log.WriteAt([]byte("refused: "+m.Secret["AccessKeyId"]+" CANARY-secret CANARY-token\n"), 0)
		require.NoError(t, err)
		require.NotContains(t, c.output(), "CANARY")
	}
}
