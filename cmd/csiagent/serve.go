//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/sandgate-dev/sandgate/cmd/internal/boot"
	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/csiagent/driver/hostpath"
	"github.com/sandgate-dev/sandgate/csiagent/driver/nas"
	"github.com/sandgate-dev/sandgate/csiagent/driver/oss"
	"github.com/sandgate-dev/sandgate/csiagent/driver/tmpfs"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

// config is what `csiagent serve` is told.
type config struct {
	Addr, Handover, State, Identity string
	Containers                      []string
	AllowHostPaths                  []string
	Endpoints                       mount.Guard
	NASFence, NASUnfenced           bool
	OSS                             oss.OIDC
	Clients                         string
	Plugin                          pluginConfig
}

// serve runs until a signal. Mounts stay: they belong to the sandbox, and only it ends them.
func serve(cfg config, log *slog.Logger) error {
	log = slog.New(channel.Named(log.Handler()))
	boxes, err := listen(cfg.Handover, cfg.Containers)
	if err != nil {
		return err
	}
	foreign, err := startPlugin(cfg, log)
	if err != nil {
		return err
	}
	defer foreign.stop() // after everything else: it may have to take volumes down
	n, err := newNode(cfg, boxes, foreign, log)
	if err != nil {
		return err
	}
	defer n.Close()
	// Before anybody can ask for anything: what is not known yet would be mounted twice, or taken for gone.
	if err := n.Adopt(context.Background()); err != nil {
		log.Error("not everything could be adopted", "error", err)
	}
	boxes.adopted.Store(true)
	server, err := channel.NewServer(channel.ServerConfig{
		Identity: (&identity{dir: cfg.Identity}).read, Node: node.NewServer(n, node.Info{Name: "agent.sandgate.dev", Version: boot.Version}),
		Version: boot.Version, HandedOver: boxes.ready, Reachable: boxes.alive, Log: log,
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	log.Info("serving", "address", listener.Addr().String(), "version", boot.Version)

	var group boot.Group
	served := make(chan struct{})
	group.Add("channel", func(ctx context.Context) error {
		defer close(served)
		return server.Serve(ctx, listener)
	})
	group.Add("hand-over", func(ctx context.Context) error { return finish(ctx, served, boxes, n, foreign, log) })
	group.Add("rest", rest)
	if foreign != nil {
		group.Add("reap", reap)
	}
	return group.Run()
}

// uploadTime is how long an agent that is told to end waits for what a container that is gone has written last. The kubelet ends an agent
// after the containers beside it, in what is left of their time.
const uploadTime = 25 * time.Second

// finish takes hand-overs until ctx ends and the calls under way have: to them a container whose namespace is let go of has ended. Meanwhile
// it gives FUSE clients their time, which may end with this process. A plugin is told to take its volumes down.
func finish(ctx context.Context, served <-chan struct{}, boxes *containers, n *node.Node, foreign *plugin, log *slog.Logger) error {
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	go func() { // ends with ctx, which ends with the group
		<-ctx.Done()
		defer func() { <-served; stop() }()
		if boxes.alive() {
			return // a container lives and uses its volumes: they go on, or break loudly where their clients end with this process, and are mounted again by the next agent
		}
		boxes.ending.Store(true)
		within, cancel := context.WithTimeout(serving, uploadTime)
		defer cancel()
		err := n.Finish(within)
		if foreign != nil {
			err = errors.Join(err, n.UnpublishAll(within))
		}
		if err != nil {
			log.Warn("last writes of the sandbox may be missing", "error", err)
		}
	}()
	return boxes.serve(serving)
}

func newNode(cfg config, boxes *containers, foreign *plugin, log *slog.Logger) (*node.Node, error) {
	host, err := hostpath.New(hostpath.Config{Prefixes: cfg.AllowHostPaths})
	if err != nil {
		return nil, err
	}
	nfs := network(cfg, log)
	pool, err := hostpath.NewPool(mount.PoolDir, nfs.FenceMounted)
	if err != nil {
		return nil, err
	}
	drivers := map[string]node.Driver{
		mount.DriverTmpfs: &tmpfs.Driver{}, mount.DriverHostPath: host, mount.DriverOSS: buckets(cfg, log), mount.DriverNAS: nfs,
		mount.DriverPool: pool, mount.DriverEphemeral: &tmpfs.Driver{Mode: tmpfs.ModeShared},
	}
	policy := mount.DefaultPolicy()
	policy.MaxMounts = mount.MostMounts // the installation's own limit is the gateway's to keep
	if foreign != nil {
		drivers[cfg.Plugin.Name], policy = foreign.Driver, policy.With(cfg.Plugin.Name)
	}
	return node.New(node.Config{
		Dir: cfg.State, Drivers: drivers, Policy: policy, Logger: log,
		Probe: &probe.Prober{Command: []string{"/proc/self/exe", probeCommand}}, Target: boxes.target,
	})
}

// bucket is the driver for object stores. Without both halves of an identity it mounts nothing by role.
func bucket(cfg config, log *slog.Logger) *oss.Driver {
	c := oss.Config{Guard: cfg.Endpoints, Logger: log}
	if cfg.OSS.Endpoint != "" && cfg.OSS.TokenFile != "" {
		c.Identity = cfg.OSS
	}
	return oss.New(c)
}

// network is the driver for NFS. Without the fence that was asked for it refuses what needs one, and serves the rest.
func network(cfg config, log *slog.Logger) *nas.Driver {
	c := nas.Config{Command: []string{"/proc/self/exe", nasCommand}, Unfenced: cfg.NASUnfenced, Guard: cfg.Endpoints, Logger: log}
	if cfg.NASFence {
		fence, err := nas.Raise()
		if err != nil {
			log.Warn("NFS is not fenced: volumes that their owner restricts are refused", "error", err)
		}
		c.Fence = fence
	}
	return nas.New(c)
}
