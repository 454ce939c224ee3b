package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sandgate-dev/sandgate/cmd/internal/boot"
	"github.com/sandgate-dev/sandgate/cmd/internal/measure"
	"github.com/sandgate-dev/sandgate/csiagent/driver/hostpath"
	"github.com/sandgate-dev/sandgate/csiagent/driver/nas"
	"github.com/sandgate-dev/sandgate/csiagent/driver/oss"
	"github.com/sandgate-dev/sandgate/csiagent/driver/tmpfs"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/gateway/e2b"
	"github.com/sandgate-dev/sandgate/gateway/observe"
	"github.com/sandgate-dev/sandgate/gateway/proxy"
	"github.com/sandgate-dev/sandgate/injector/envd"
	"github.com/sandgate-dev/sandgate/warmpool/local"
	"github.com/sandgate-dev/sandgate/warmpool/local/manifest"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

var (
	_ gateway.Backend = (*local.Backend)(nil)
	_ gateway.Checker = (*local.Backend)(nil)
	_ gateway.Meter   = (*local.Backend)(nil)
	_ proxy.Resolver  = (*local.Backend)(nil)
)

// config is what `sandgate run` is told.
type config struct {
	Addr, State, Manifests, Bin, Domain, MetricsAddr string
	AllowHostPaths                                   []string
	Endpoints                                        mount.Guard
	NASUnfenced                                      bool
	Volumes                                          volume.Default
	CreateDeadline, MaxTimeout                       time.Duration
	MaxMounts, MaxSandboxes                          int
}

// drain is how long requests under way may take to end after a signal. Streams of sandboxes are cut then.
const drain = 3 * time.Second

// run serves until a signal. Sandboxes go on living after it.
func run(cfg config, log *slog.Logger, out io.Writer) error {
	syscall.Umask(0o022) // sandboxes see directories that we make; a stricter umask of the shell must not lock their users out
	var err error
	if cfg.State, err = filepath.Abs(cfg.State); err != nil {
		return err
	}
	store, err := manifest.Open(cfg.Manifests, log)
	if err != nil {
		return err
	}
	drivers, err := builtin(cfg, log)
	if err != nil {
		return err
	}
	node, err := os.Hostname()
	if err != nil {
		return err
	}
	node = strings.ToLower(node) // as the kubelet names it
	policy := mount.DefaultPolicy()
	policy.Drivers, policy.MaxMounts = slices.Sorted(maps.Keys(drivers)), cfg.MaxMounts
	pool, err := local.New(local.Config{
		Pool:  local.Pool{Sets: store.Sets, Changed: store.Changed, Max: cfg.MaxSandboxes, MaxMounts: cfg.MaxMounts, Reader: store, Default: cfg.Volumes, Node: node},
		State: cfg.State, Envd: filepath.Join(cfg.Bin, "envd"), Starter: filepath.Join(cfg.Bin, "starter"), EnvdVersion: envd.Version,
		Drivers: drivers, Policy: policy, Probe: prober(), Log: log,
	})
	if err != nil {
		return err
	}
	limits := gateway.DefaultLimits()
	limits.Create, limits.MaxTimeout = cfg.CreateDeadline, cfg.MaxTimeout
	registry, observer, err := metrics(pool)
	if err != nil {
		pool.Close()
		return err
	}
	service, err := gateway.New(gateway.Config{
		Backend: pool, Reader: store, Policy: policy, Node: node, Volumes: cfg.Volumes, Limits: limits, Observer: observer, Logger: log,
	})
	if err != nil {
		pool.Close()
		return err
	}
	return serve(cfg, log, out, store, pool, service, registry)
}

// metrics are those of the process, its requests, pools and mounts.
func metrics(pool *local.Backend) (*prometheus.Registry, *observe.Observer, error) {
	registry := measure.Registry("sandgate")
	observer, err := observe.New(registry)
	if err != nil {
		return nil, nil, err
	}
	return registry, observer, errors.Join(registry.Register(observe.Pools(pool.Templates)), registry.Register(pool.Mounts()))
}

// asked bounds the question whether the sandboxes of an earlier process were taken over.
const asked = time.Second

func serve(
	cfg config, log *slog.Logger, out io.Writer, store *manifest.Store, pool *local.Backend, service *gateway.Service, registry prometheus.Gatherer,
) error {
	access, err := openAccess(cfg.State)
	if err != nil {
		pool.Close()
		return err
	}
	api, err := e2b.New(service, access.keys, e2b.Config{Domain: cfg.Domain, Logger: log})
	if err != nil {
		pool.Close()
		return err
	}
	data, err := proxy.New(proxy.Config{Resolver: pool, Sandboxes: pool, Domains: domains(cfg.Domain), Log: log})
	if err != nil {
		pool.Close()
		return err
	}
	listener, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		pool.Close()
		return fmt.Errorf("serve: %w", err)
	}
	server := proxy.Server(data.Or(api), log)

	var group boot.Group
	group.Add("manifests", store.Run)
	group.Add("pool", pool.Run)
	if cfg.MetricsAddr != "" {
		group.Add("metrics", measure.Serve(cfg.MetricsAddr, registry, func() error {
			ctx, cancel := context.WithTimeout(context.Background(), asked)
			defer cancel()
			_, err := pool.Templates(ctx)
			return err
		}))
	}
	group.Add("server", func(ctx context.Context) error { return boot.Serve(ctx, server, listener, boot.Ending{Drain: drain}) })
	group.Add("announcement", func(ctx context.Context) error {
		if _, err := pool.Templates(ctx); err != nil { // answers once the sandboxes of an earlier process were taken over
			return err
		}
		if err := access.announce(out, listener.Addr().String()); err != nil {
			return err
		}
		log.Info("ready", "address", listener.Addr().String(), "state", cfg.State)
		<-ctx.Done()
		return nil
	})
	err = errors.Join(group.Run(), data.Close())
	fmt.Fprintf(out, "\nStopped. Sandboxes live on until their deadlines and are taken over by the next start.\nTo end them now: make clean STATE=%s (or: sandgate clean -state %s)\n", cfg.State, cfg.State)
	return err
}

// builtin are the drivers of one machine.
func builtin(cfg config, log *slog.Logger) (map[string]node.Driver, error) {
	host, err := hostpath.New(hostpath.Config{Prefixes: cfg.AllowHostPaths})
	if err != nil {
		return nil, err
	}
	return map[string]node.Driver{
		mount.DriverTmpfs: &tmpfs.Driver{}, mount.DriverEphemeral: &tmpfs.Driver{Mode: tmpfs.ModeShared},
		mount.DriverHostPath: host,
		mount.DriverOSS:      oss.New(oss.Config{Guard: cfg.Endpoints, Logger: log}),
		mount.DriverNAS:      nas.New(nas.Config{Command: []string{"/proc/self/exe", nasCommand}, Unfenced: cfg.NASUnfenced, Guard: cfg.Endpoints, Logger: log}),
	}, nil
}

// prober reads volumes in processes of this very program.
func prober() *probe.Prober {
	return &probe.Prober{Command: []string{"/proc/self/exe", probeCommand}}
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
