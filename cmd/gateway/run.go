package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/sandgate-dev/sandgate/cmd/internal/boot"
	"github.com/sandgate-dev/sandgate/cmd/internal/measure"
	"github.com/sandgate-dev/sandgate/cmd/internal/trace"
	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/gateway/auth"
	"github.com/sandgate-dev/sandgate/gateway/observe"
	"github.com/sandgate-dev/sandgate/gateway/proxy"
	"github.com/sandgate-dev/sandgate/injector/envd"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/kube"
	"github.com/sandgate-dev/sandgate/warmpool/kube/keyring"
)

var (
	_ gateway.Backend = (*kube.Backend)(nil)
	_ gateway.Checker = (*kube.Backend)(nil)
	_ gateway.Meter   = (*kube.Backend)(nil)

	_ gateway.Rereader = (*kube.Backend)(nil)

	_ kube.Observer = (*observe.Observer)(nil)

	_ gateway.Rememberer = (*kube.Backend)(nil)

	_ proxy.Resolver = (*kube.Backend)(nil)
	_ proxy.Lister   = (*kube.Backend)(nil)
)

// process is the gateway on its way to serving.
type process struct {
	cfg      config
	log      *slog.Logger
	cluster  *cluster
	observer *observe.Observer
	access   auth.Current
	identity atomic.Pointer[channel.Identity]
	backend  atomic.Pointer[kube.Backend]
}

func run(cfg config, log *slog.Logger) error {
	var group boot.Group
	if cfg.OTLPEndpoint != "" {
		traces, err := trace.Export(context.Background(), "gateway", cfg.OTLPEndpoint, log)
		if err != nil {
			return err
		}
		group.Add("traces", traces)
	}
	registry := measure.Registry("gateway")
	p, err := newProcess(cfg, log, registry)
	if err != nil {
		return err
	}
	group.Add("metrics", measure.Serve(cfg.MetricsAddr, registry, p.ready))
	group.Add("gateway", p.serve)
	return group.Run()
}

func newProcess(cfg config, log *slog.Logger, registry prometheus.Registerer) (*process, error) {
	cluster, err := connect(cfg, log)
	if err != nil {
		return nil, err
	}
	observer, err := observe.New(registry)
	if err != nil {
		return nil, err
	}
	p := &process{cfg: cfg, log: log, cluster: cluster, observer: observer}
	return p, registry.Register(observe.Pools(p.templates))
}

// ready says what is missing before requests can be served.
func (p *process) ready() error {
	backend := p.backend.Load()
	switch {
	case backend == nil:
		return fmt.Errorf("secret %s/%s is not there yet; the controller makes it", p.cfg.ReleaseNamespace, keyring.SecretKeys)
	case p.access.Len() == 0:
		return fmt.Errorf("secret %s/%s holds no API key yet", p.cfg.ReleaseNamespace, keyring.SecretAPIKeys)
	case p.identity.Load() == nil:
		return fmt.Errorf("secret %s/%s is not there yet; the controller makes it", p.cfg.ReleaseNamespace, keyring.SecretGatewayClient)
	}
	return backend.Ready()
}

// serve serves until ctx ends. What requests stand on lives on until the last of them has ended.
func (p *process) serve(ctx context.Context) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	work, life := errgroup.WithContext(life)
	ctx, stop := context.WithCancel(ctx)
	defer context.AfterFunc(life, stop)() // without the cache there is nothing to serve
	work.Go(func() error { return p.cluster.cache.Start(life) })
	clients, err := kubernetes.NewForConfig(p.cluster.rest)
	if err != nil {
		end()
		return err
	}
	for name, take := range map[string]func(*corev1.Secret){keyring.SecretAPIKeys: p.takeAPIKeys, keyring.SecretGatewayClient: p.takeIdentity} {
		work.Go(func() error { return watchSecret(life, clients, p.cfg.ReleaseNamespace, name, take) })
	}
	err = p.handle(ctx, life, work)
	stop()
	end()
	return errors.Join(err, work.Wait())
}

// handle builds what answers requests, and answers them until ctx ends.
func (p *process) handle(ctx, life context.Context, work *errgroup.Group) error {
	keys, err := p.awaitKeys(ctx)
	if err != nil {
		return err
	}
	pool, err := channel.NewPool(channel.PoolConfig{Identity: p.client, Request: gateway.RequestID, Log: p.log})
	if err != nil {
		return err
	}
	defer pool.Close()
	fitter, err := kube.NewFitter(kube.FitterConfig{Keys: keys, Agents: kube.Channel(pool)})
	if err != nil {
		return err
	}
	drivers := checks(p.cfg.AllowHostPaths, p.cfg.Plugins.Drivers(), p.cfg.Endpoints)
	if _, err := p.cluster.cache.GetInformer(ctx, &corev1.PersistentVolume{}); err != nil {
		return fmt.Errorf("watch PersistentVolumes: %w", err)
	}
	backend, err := kube.New(ctx, kube.Config{
		Client: p.cluster.client, Cache: p.cluster.cache, Namespaces: p.cfg.Namespaces, ReleaseNamespace: p.cfg.ReleaseNamespace,
		Keys: keys, Fitter: fitter, Checks: drivers, EnvdVersion: envd.Version, Cold: p.cfg.Cold, Warm: p.cfg.Warm,
		Lease: p.cfg.Limits.Create + 2*p.cfg.Limits.Undo + time.Minute, Request: gateway.RequestID, Observer: p.observer, Log: p.log,
	})
	if err != nil {
		return err
	}
	work.Go(func() error { return backend.Run(life) })
	p.backend.Store(backend)
	server, closer, err := p.server(backend, slices.Sorted(maps.Keys(drivers)))
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", p.cfg.Addr)
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	p.log.Info("serving", "address", listener.Addr().String(), "namespaces", p.cfg.Namespaces)
	return errors.Join(boot.Serve(ctx, server, listener, p.cfg.Ending), closer())
}

// keyPause is between two looks for the installation's keys.
const keyPause = time.Second

// awaitKeys waits until the controller has made the installation's keys.
func (p *process) awaitKeys(ctx context.Context) (keyring.Keys, error) {
	ticker := time.NewTicker(keyPause)
	defer ticker.Stop()
	for said := ""; ; {
		keys, err := keyring.Load(ctx, p.cluster.client, p.cfg.ReleaseNamespace)
		if err == nil {
			return keys, nil
		}
		if text := err.Error(); text != said {
			said = text
			p.log.Warn("waiting for the installation's keys", "missing", warmpool.CodeOf(err) == warmpool.NotFound, "error", err)
		}
		select {
		case <-ctx.Done():
			return keyring.Keys{}, ctx.Err()
		case <-ticker.C:
		}
	}
}

// templates are the pools, none before they are known.
func (p *process) templates(ctx context.Context) ([]warmpool.Template, error) {
	backend := p.backend.Load()
	if backend == nil {
		return nil, errors.New("not serving yet")
	}
	return backend.Templates(ctx)
}
