package main

import (
	"cmp"
	"context"
	"errors"
	"net"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/csiagent/driver/nas"
	"github.com/sandgate-dev/sandgate/csiagent/driver/oss"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/controller/egress"
	"github.com/sandgate-dev/sandgate/warmpool/controller/injection"
	"github.com/sandgate-dev/sandgate/warmpool/controller/sandbox"
	"github.com/sandgate-dev/sandgate/warmpool/controller/sandboxset"
	"github.com/sandgate-dev/sandgate/warmpool/kube"
)

// controllers gives everything that reconciles to the manager.
func (p *process) controllers(ctx context.Context, mgr manager.Manager, secrets *secrets, pool *channel.Pool) error {
	fitter, err := kube.NewFitter(kube.FitterConfig{Keys: secrets.keys, Agents: kube.Channel(pool)})
	if err != nil {
		return err
	}
	initKey, err := secrets.keys.InitKey()
	if err != nil {
		return err
	}
	if _, err := mgr.GetCache().GetInformer(ctx, &corev1.PersistentVolume{}); err != nil {
		return err
	}
	volumes, err := kube.NewReader(mgr.GetCache(), p.live, nil)
	if err != nil {
		return err
	}
	policy, check := rules(p.cfg.AllowHostPaths, p.cfg.Plugins.Drivers(), p.cfg.Endpoints)
	policy.MaxMounts = cmp.Or(p.cfg.MaxMounts, policy.MaxMounts)
	recorder := mgr.GetEventRecorder("sandgate-controller")
	watch, err := injection.NewWatch(injection.WatchConfig{
		Cache: mgr.GetCache(), Current: &p.injection, Live: p.live,
		Events: recorder, Elected: mgr.Elected(), Log: p.log,
	})
	if err != nil {
		return err
	}
	sets, err := sandboxset.New(sandboxset.Config{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Injection: &p.injection, MaxMounts: policy.MaxMounts, Events: recorder, Log: p.log,
	})
	if err != nil {
		return err
	}
	sandboxes, err := sandbox.New(sandbox.Config{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Injection: &p.injection, Fitter: fitter, Authority: secrets.authority,
		InitKey: initKey, Volumes: volumes, Default: p.cfg.Volumes, Policy: policy, Plugins: p.cfg.Plugins, Check: check, Events: recorder, Log: p.log,
	})
	if err != nil {
		return err
	}
	return errors.Join(mgr.Add(watch), p.egress(mgr, recorder), sets.Setup(ctx, mgr), sandboxes.Setup(mgr), p.webhook(ctx, mgr, initKey), register(p.registry,
		sandboxset.Pools(mgr.GetCache(), mgr.Elected()), sandbox.Mounts(mgr.GetCache(), mgr.Elected())))
}

// egress lets pools out to their volumes' servers, where that is asked for.
func (p *process) egress(mgr manager.Manager, recorder events.EventRecorder) error {
	if !p.cfg.Egress {
		return nil
	}
	local := func(mount.Mount) ([]mount.Endpoint, error) { return nil, nil }
	r, err := egress.New(egress.Config{
		Client: mgr.GetClient(), Guard: p.cfg.Endpoints, Resolver: net.DefaultResolver, Events: recorder, Log: p.log,
		Endpoints: map[string]func(mount.Mount) ([]mount.Endpoint, error){
			mount.DriverOSS: oss.Endpoints(p.cfg.STS), mount.DriverNAS: nas.Endpoints, mount.DriverTmpfs: local, mount.DriverHostPath: local,
		},
	})
	if err != nil {
		return err
	}
	return r.Setup(mgr)
}

func register(r prometheus.Registerer, all ...prometheus.Collector) (err error) {
	for _, c := range all {
		err = errors.Join(err, r.Register(c))
	}
	return err
}
