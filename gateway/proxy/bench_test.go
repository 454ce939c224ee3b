package proxy_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/gateway/proxy"
)

const blob = 64 << 20

// service answers small requests at /, takes and gives a blob at /blob.
func service(rw http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/blob" && r.Method == http.MethodGet:
		chunk := make([]byte, 64<<10)
		for range blob / len(chunk) {
			_, _ = rw.Write(chunk)
		}
	default:
		_, _ = io.Copy(io.Discard, r.Body)
	}
}

// paths are the same service without and with the proxy before it.
func paths(b *testing.B) map[string]string {
	direct := httptest.NewServer(http.HandlerFunc(service))
	b.Cleanup(direct.Close)
	w := &world{gone: make(chan struct{}), ports: map[uint16]string{3000: direct.Listener.Addr().String()}}
	p, err := proxy.New(proxy.Config{Resolver: w, Log: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	gateway := httptest.NewUnstartedServer(p)
	gateway.Config = proxy.Server(p, slog.New(slog.DiscardHandler))
	gateway.Start()
	b.Cleanup(func() {
		gateway.Close()
		require.NoError(b, p.Close())
	})
	return map[string]string{"direct": direct.URL, "proxied": gateway.URL}
}

func send(b *testing.B, method, url string, body io.Reader) {
	r, err := http.NewRequestWithContext(b.Context(), method, url, body)
	require.NoError(b, err)
	r.Header.Set(proxy.HeaderSandboxID, string(id))
	r.Header.Set(proxy.HeaderSandboxPort, "3000")
	res, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(b, err)
	_, err = io.Copy(io.Discard, res.Body)
	require.NoError(b, err)
	require.NoError(b, res.Body.Close())
	require.Equal(b, http.StatusOK, res.StatusCode)
}

// BenchmarkRoundTrip reports the median of a small request's time; the difference is what the proxy adds.
func BenchmarkRoundTrip(b *testing.B) {
	for name, url := range paths(b) {
		b.Run(name, func(b *testing.B) {
			times := make([]time.Duration, 0, b.N)
			for b.Loop() {
				start := time.Now()
				send(b, http.MethodGet, url+"/", nil)
				times = append(times, time.Since(start))
			}
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-µs")
		})
	}
}

// BenchmarkBlob reports the throughput of a large body in each direction.
func BenchmarkBlob(b *testing.B) {
	for name, url := range paths(b) {
		b.Run("down/"+name, func(b *testing.B) {
			b.SetBytes(blob)
			for b.Loop() {
				send(b, http.MethodGet, url+"/blob", nil)
			}
		})
		b.Run("up/"+name, func(b *testing.B) {
			b.SetBytes(blob)
			for b.Loop() {
				send(b, http.MethodPost, url+"/blob", io.LimitReader(zeros{}, blob))
			}
		})
	}
}

// zeros reads as zeros without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
