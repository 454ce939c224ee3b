package oss

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Clients follow redirects; where to, is the store's word, and nobody has looked at that address.
func TestARedirectOfTheStoreReachesNobody(t *testing.T) {
	for name, path := range map[string]func(t *testing.T) []string{
		"s3fs":  func(t *testing.T) []string { needs(t); return nil },
		"ossfs": func(t *testing.T) []string { return []string{ossfsProgram(t)} },
	} {
		for _, scheme := range []string{"http", "https", "ftp"} {
			t.Run(name+", "+scheme, func(t *testing.T) {
				w := newWorld(t, path(t)...)
				secret, err := net.Listen("tcp", "127.0.0.1:0")
				require.NoError(t, err)
				defer func() { _ = secret.Close() }()
				var reached, asked atomic.Int32
				go func() { // ends with secret
					for {
						c, err := secret.Accept()
						if err != nil {
							return
						}
						reached.Add(1)
						_ = c.Close()
					}
				}()
				store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					asked.Add(1)
					w.Header().Set("Location", scheme+"://"+secret.Addr().String()+"/")
					w.WriteHeader(http.StatusTemporaryRedirect)
				}))
				defer store.Close()
				m := example()
				m.Attributes["url"], m.Attributes["otherOpts"] = store.URL, "-o retries=1"
				src, err := w.Mount(soon(t, 5*time.Second), m, w.dir)
				if err == nil {
					_, err = os.ReadFile(filepath.Join(w.dir, "f"))
					require.NoError(t, src.Root.Close())
					_ = w.Unmount(soon(t, 0), w.dir, src.Client)
				}
				require.Error(t, err)
				require.Positive(t, asked.Load())
				require.Zero(t, reached.Load(), "it was followed")
			})
		}
	}
}
