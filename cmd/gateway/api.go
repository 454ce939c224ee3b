package main

import (
	"cmp"
	"net"
	"net/http"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"

	"github.com/sandgate-dev/sandgate/csiagent/driver/hostpath"
	"github.com/sandgate-dev/sandgate/csiagent/driver/nas"
	"github.com/sandgate-dev/sandgate/csiagent/driver/oss"
	"github.com/sandgate-dev/sandgate/csiagent/driver/tmpfs"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/gateway/e2b"
	"github.com/sandgate-dev/sandgate/gateway/proxy"
	"github.com/sandgate-dev/sandgate/warmpool/kube"
)

// server is API and data plane on one port, and what closes the latter.
func (p *process) server(backend *kube.Backend, drivers []string) (*http.Server, func() error, error) {
	reader, err := kube.NewReader(p.cluster.cache, p.cluster.client, nil)
	if err != nil {
		return nil, nil, err
	}
	policy := mount.DefaultPolicy().With(p.cfg.Plugins.Drivers()...)
	policy.Drivers, policy.MaxMounts = drivers, cmp.Or(p.cfg.MaxMounts, policy.MaxMounts)
	service, err := gateway.New(gateway.Config{
		Backend: backend, Reader: reader, Policy: policy, Plugins: p.cfg.Plugins, Volumes: p.cfg.Volumes, Limits: p.cfg.Limits, Observer: p.observer, Logger: p.log,
	})
	if err != nil {
		return nil, nil, err
	}
	api, err := e2b.New(service, &p.access, e2b.Config{Domain: p.cfg.Domain, Logger: p.log})
	if err != nil {
		return nil, nil, err
	}
	data, err := proxy.New(proxy.Config{
		Resolver: backend, Sandboxes: backend, Domains: domains(p.cfg.Domain), TrustedHosts: p.cfg.TrustedHosts,
		MaxRequests: p.cfg.MaxRequests, Log: p.log,
	})
	if err != nil {
		return nil, nil, err
	}
	return proxy.Server(data.Or(traced(api)), p.log), data.Close, nil
}

// traced lets the spans of a request be parts of its caller's trace.
func traced(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := otel.GetTextMapPropagator().Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		api.ServeHTTP(w, r.WithContext(ctx))
	})
}

// checks are what the agents' drivers refuse without touching any storage. What a foreign driver refuses only its plugin knows.
func checks(hostPaths, foreign []string, g mount.Guard) map[string]kube.Check {
	out := map[string]kube.Check{
		mount.DriverTmpfs: (&tmpfs.Driver{}).Check, mount.DriverEphemeral: (&tmpfs.Driver{}).Check,
		mount.DriverHostPath: hostpath.Allowed(hostPaths).Check,
		mount.DriverOSS:      func(m mount.Mount) error { return oss.Check(m, g) },
		mount.DriverNAS:      func(m mount.Mount) error { return nas.Check(m, g) },
		mount.DriverPool:     func(mount.Mount) error { return nil }, // the kubelet has mounted it
	}
	for _, driver := range foreign {
		if out[driver] == nil {
			out[driver] = func(mount.Mount) error { return nil }
		}
	}
	return out
}

func domains(domain string) []string {
	if domain == "" {
		return []string{"localhost"}
	}
	host, _, err := net.SplitHostPort(domain)
	if err != nil {
		host = domain
	}
	return []string{host, "localhost"}
}
