// Package measure is the metrics of a process and the port that they are served at. It is apart from boot for the agent's sake: one runs in
// every pod, and pays for what its program links.
package measure

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

	"github.com/sandgate-dev/sandgate/cmd/internal/boot"
)

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
		ConstLabels: prometheus.Labels{"component": component, "version": boot.Version, "revision": revision},
	})
	build.Set(1)
	return build
}

// Serve serves /metrics of g, /livez, and /readyz as ready says it, on addr. Nothing else is served there.
func Serve(addr string, g prometheus.Gatherer, ready func() error) func(ctx context.Context) error {
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
