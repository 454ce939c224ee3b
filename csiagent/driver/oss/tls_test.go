package oss

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/driver/oss/osstest"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// The machine's certificates are read once in a process: the one that trusts the store is another.
func TestOssfsSpeaksTLSToWhomTheMachineTrusts(t *testing.T) {
	client := ossfsProgram(t)
	overTLS(t, func(behind *url.URL) http.Handler {
		front := osstest.New(behind, storeKey, storeSecret)
		front.Admit(osstest.Key{ID: storeKey, Secret: storeSecret})
		return front
	}, client)
}

func TestS3fsSpeaksTLSToWhomTheMachineTrusts(t *testing.T) {
	needs(t)
	overTLS(t, func(behind *url.URL) http.Handler {
		return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(behind)
			r.Out.Host = r.In.Host
		}}
	})
}

func overTLS(t *testing.T, front func(behind *url.URL) http.Handler, path ...string) {
	t.Helper()
	w := newWorld(t, path...)
	if trusted := os.Getenv("STORE_OVER_TLS"); trusted != "" {
		m := store{url: trusted}.mount()
		w.up(t, m)
		require.NoError(t, os.WriteFile(filepath.Join(w.dir, "hello"), []byte("world"), 0o600))
		return
	}
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "data"), 0o755))
	behind, err := url.Parse(serve(t, nil, "posix", dir))
	require.NoError(t, err)
	server := httptest.NewTLSServer(front(behind))
	defer server.Close()

	require.ErrorContains(t, w.refuses(t, store{url: server.URL}.mount(), mount.ErrInvalid), "certificate is not trusted")
	require.NoFileExists(t, filepath.Join(dir, "data", "hello"))

	authority := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	other := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	other.Env = append(os.Environ(), "SSL_CERT_FILE="+authority, "STORE_OVER_TLS="+server.URL)
	out, err := other.CombinedOutput()
	require.NoError(t, err, "%s", out)
	b, err := os.ReadFile(filepath.Join(dir, "data", "hello"))
	require.NoError(t, err, "%s", out)
	require.Equal(t, "world", string(b))
}
