package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/sandgate-dev/sandgate/cmd/internal/boot"
	"github.com/sandgate-dev/sandgate/cmd/internal/measure"
	"github.com/sandgate-dev/sandgate/cmd/internal/trace"
	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/warmpool/controller/injection"
	"github.com/sandgate-dev/sandgate/warmpool/controller/sandbox"
	"github.com/sandgate-dev/sandgate/warmpool/kube"
)

var _ sandbox.Fitter = (*kube.Fitter)(nil)

// process is the controller on its way to working.
type process struct {
	cfg       config
	log       *slog.Logger
	rest      *rest.Config
	types     *runtime.Scheme
	live      client.Client
	registry  prometheus.Registerer
	injection injection.Current
	synced    atomic.Bool
	hooked    chan struct{} // closed once the API server believes the webhook's certificate
}

func run(cfg config, log *slog.Logger) error {
	var group boot.Group
	if cfg.OTLPEndpoint != "" {
		traces, err := trace.Export(context.Background(), "controller", cfg.OTLPEndpoint, log)
		if err != nil {
			return err
		}
		group.Add("traces", traces)
	}
	access, types, err := connect(cfg)
	if err != nil {
		return err
	}
	p, err := newProcess(cfg, log, access, types, metrics.Registry)
	if err != nil {
		return err
	}
	group.Add("metrics", measure.Serve(cfg.MetricsAddr, metrics.Registry, p.ready))
	group.Add("controller", p.work)
	return group.Run()
}

func newProcess(cfg config, log *slog.Logger, access *rest.Config, types *runtime.Scheme, registry prometheus.Registerer) (*process, error) {
	live, err := client.New(access, client.Options{Scheme: types})
	if err != nil {
		return nil, err
	}
	p := &process{cfg: cfg, log: log, rest: access, types: types, live: live, registry: registry, hooked: make(chan struct{})}
	return p, register(registry, measure.Build("controller"), injection.Valid(&p.injection))
}

// ready says what is missing before this replica can work, or wait for its turn.
func (p *process) ready() error {
	if !p.synced.Load() {
		return errors.New("the cluster's objects are not known yet")
	}
	select {
	case <-p.hooked:
	default:
		if p.cfg.Webhook.On {
			return errors.New("the webhook's certificate is not in force yet")
		}
	}
	return nil
}

// work runs the controllers until ctx ends.
func (p *process) work(ctx context.Context) error {
	secrets, err := p.awaitSecrets(ctx)
	if err != nil {
		return err
	}
	mgr, err := newManager(p.cfg, p.rest, p.types)
	if err != nil {
		return err
	}
	pool, err := channel.NewPool(channel.PoolConfig{Identity: secrets.identity, Request: sandbox.Chore, Log: p.log})
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := p.controllers(ctx, mgr, secrets, pool); err != nil {
		return err
	}
	for _, r := range []manager.Runnable{
		everywhere(p.awaitCache(mgr)), manager.RunnableFunc(p.renewGateway(secrets)),
		kube.Records{Client: p.live, Namespace: p.cfg.ReleaseNamespace, Log: p.log},
	} {
		if err := mgr.Add(r); err != nil {
			return err
		}
	}
	return mgr.Start(ctx)
}

// awaitCache marks the replica as ready once its cache is full.
func (p *process) awaitCache(mgr manager.Manager) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		if mgr.GetCache().WaitForCacheSync(ctx) {
			p.synced.Store(true)
			p.log.Info("objects known", "namespaces", p.cfg.Namespaces)
		}
		<-ctx.Done()
		return nil
	}
}

// everywhere runs on replicas that are not elected, too.
type everywhere func(ctx context.Context) error

// Start implements Runnable.
func (f everywhere) Start(ctx context.Context) error { return f(ctx) }

// NeedLeaderElection implements LeaderElectionRunnable.
func (everywhere) NeedLeaderElection() bool { return false }
