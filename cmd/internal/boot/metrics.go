package boot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Version is the version that this program was built as; `-ldflags "-X .../boot.Version=v1.2.3"` sets it.
var Version = "dev"

// Registry is a registry of metrics with the process's own in it, and with sandgate_build_info.
func Registry(component string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(Build(component), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Build is sandgate_build_info, for a registry that somebody else has made.
func Build(component string) prometheus.Collector {
	revision := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "sandgate_build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"component": component, "version": Version, "revision": revision},
	})
	build.Set(1)
	return build
}

// Metrics serves /metrics of g, /livez, and /readyz as ready says it, on addr. Nothing else is served there.
func Metrics(addr string, g prometheus.Gatherer, ready func() error) func(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	return func(ctx context.Context) error {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("serve metrics: %w", err)
		}
		server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
		stop := context.AfterFunc(ctx, func() { _ = server.Close() })
		defer stop()
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}
