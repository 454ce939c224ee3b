//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sandgate-dev/sandgate/cmd/internal/boot"
	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/csiagent/driver/hostpath"
	"github.com/sandgate-dev/sandgate/csiagent/driver/oss"
	"github.com/sandgate-dev/sandgate/csiagent/driver/tmpfs"
	"github.com/sandgate-dev/sandgate/csiagent/handover"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

// config is what `csiagent serve` is told.
type config struct {
	Addr, Handover, State, Identity string
	AllowHostPaths                  []string
}

// handoverPatience is how long a publish waits for a namespace that is on its way, such as after a restart of the agent.
const handoverPatience = 2 * time.Second

// serve runs until a signal. Mounts stay: they belong to the sandbox, and only it ends them.
func serve(cfg config, log *slog.Logger) error {
	log = slog.New(channel.Named(log.Handler()))
	threads := attach.NewThreads(attach.DefaultThreads)
	receiver, err := handover.Listen(handover.Config{Socket: cfg.Handover, Threads: threads})
	if err != nil {
		return err
	}
	n, err := newNode(cfg, receiver, log)
	if err != nil {
		return err
	}
	defer n.Close()
	server, err := channel.NewServer(channel.ServerConfig{
		Identity: (&identity{dir: cfg.Identity}).read, Node: node.NewServer(n, node.Info{Name: "agent.sandgate.dev", Version: boot.Version}),
		Version: boot.Version, HandedOver: func() bool { return receiver.State().Ready }, Log: log,
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
	group.Add("hand-over", receiver.Serve)
	group.Add("channel", func(ctx context.Context) error { return server.Serve(ctx, listener) })
	group.Add("adoption", func(ctx context.Context) error {
		// What an earlier process has left can be judged once the namespace is here; until then it is kept.
		select {
		case <-receiver.Ready():
		case <-ctx.Done():
			return nil
		}
		if err := n.Adopt(ctx); err != nil {
			log.ErrorContext(ctx, "not everything could be adopted", "error", err)
		}
		<-ctx.Done()
		return nil
	})
	return group.Run()
}

func newNode(cfg config, receiver *handover.Receiver, log *slog.Logger) (*node.Node, error) {
	host, err := hostpath.New(hostpath.Config{Prefixes: cfg.AllowHostPaths})
	if err != nil {
		return nil, err
	}
	drivers := map[string]node.Driver{
		mount.DriverTmpfs: &tmpfs.Driver{}, mount.DriverHostPath: host, mount.DriverOSS: oss.New(oss.Config{Logger: log}),
	}
	return node.New(node.Config{
		Dir: cfg.State, Drivers: drivers, Policy: mount.DefaultPolicy(), Logger: log,
		Probe: &probe.Prober{Command: []string{"/proc/self/exe", probeCommand}},
		Target: func(ctx context.Context, container string) (node.Target, error) {
			if container != "" {
				return nil, fmt.Errorf("container %q hands no namespace over; only the first container can have mounts", container)
			}
			within, cancel := context.WithTimeout(ctx, handoverPatience)
			defer cancel()
			ns, err := receiver.Namespace(within)
			if err != nil {
				return nil, err
			}
			return ns, nil
		},
	})
}

// identity is a directory into which the kubelet puts the Secret, again when it is renewed.
type identity struct {
	dir string

	mu   sync.Mutex
	seen time.Time
	last channel.Identity
}

// read returns the identity of now. The kubelet swaps a symbolic link, so that one file's time tells of all.
func (i *identity) read() (channel.Identity, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	info, err := os.Stat(filepath.Join(i.dir, "tls.crt"))
	if err != nil {
		return channel.Identity{}, fmt.Errorf("identity: %w", err)
	}
	if info.ModTime().Equal(i.seen) {
		return i.last, nil
	}
	cert, errCert := os.ReadFile(filepath.Join(i.dir, "tls.crt"))
	key, errKey := os.ReadFile(filepath.Join(i.dir, "tls.key"))
	ca, errCA := os.ReadFile(filepath.Join(i.dir, "ca.crt"))
	if err := errors.Join(errCert, errKey, errCA); err != nil {
		return channel.Identity{}, fmt.Errorf("identity: %w", err)
	}
	i.seen, i.last = info.ModTime(), channel.Identity{Cert: cert, Key: key, CA: ca}
	return i.last, nil
}
