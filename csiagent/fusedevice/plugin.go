//go:build linux

// Package fusedevice is a kubelet device plugin that gives containers /dev/fuse, so that an agent can serve FUSE volumes without being
// privileged. It knows neither agents nor volumes.
package fusedevice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// Resource is what a container asks for in its limits.
const Resource = "sandgate.dev/fuse"

// Config is what a Plugin needs. Fields without a default are required.
type Config struct {
	// Dir is the kubelet's directory of device plugins, usually /var/lib/kubelet/device-plugins.
	Dir string
	// Device is the node's device, /dev/fuse when empty; Seen is where this process sees it, Device when empty.
	Device, Seen string
	// Devices is how many containers of the node may have it at once.
	Devices int
	// Look is how often the device is looked for, 10 s when zero.
	Look time.Duration
	Log  *slog.Logger
}

// Plugin is the device plugin.
type Plugin struct {
	api.UnimplementedDevicePluginServer

	cfg Config
}

// socket is the plugin's, in the kubelet's directory.
const socket = "sandgate-fuse.sock"

// New makes a plugin; Run runs it.
func New(cfg Config) (*Plugin, error) {
	if cfg.Dir == "" || cfg.Devices <= 0 || cfg.Log == nil {
		return nil, errors.New("fuse device: Dir, Devices (more than 0) and Log are needed")
	}
	if cfg.Device == "" {
		cfg.Device = "/dev/fuse"
	}
	if cfg.Seen == "" {
		cfg.Seen = cfg.Device
	}
	if cfg.Look == 0 {
		cfg.Look = 10 * time.Second
	}
	return &Plugin{cfg: cfg}, nil
}

// Run serves until ctx ends, and registers again whenever the kubelet has started anew: it forgets its plugins and removes their sockets.
func (p *Plugin) Run(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("fuse device: %w", err)
	}
	defer func() { _ = watcher.Close() }()
	if err := watcher.Add(p.cfg.Dir); err != nil {
		return fmt.Errorf("fuse device: watch the kubelet's directory: %w", err)
	}
	for ctx.Err() == nil {
		if err := p.session(ctx, watcher); err != nil {
			return err
		}
	}
	return nil
}

// session is one registration, until the kubelet starts anew.
func (p *Plugin) session(ctx context.Context, watcher *fsnotify.Watcher) error {
	path := filepath.Join(p.cfg.Dir, socket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("fuse device: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("fuse device: %w", err)
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, p)
	var group errgroup.Group
	group.Go(func() error { return server.Serve(listener) })
	defer func() {
		server.Stop()
		_ = group.Wait()
	}()
	kubelet := filepath.Join(p.cfg.Dir, "kubelet.sock")
	told := identity(kubelet)
	if err := p.register(ctx, kubelet); err != nil {
		p.cfg.Log.WarnContext(ctx, "the kubelet does not take the device plugin yet", "error", err)
		return p.pause(ctx)
	}
	p.cfg.Log.InfoContext(ctx, "registered", "resource", Resource, "devices", p.cfg.Devices)
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-watcher.Events:
			// Not when it is told already: events come late, and a kubelet that is told twice takes the end of the first session for that of
			// both, and the devices for sick ones until it starts anew.
			if event.Name == kubelet && event.Has(fsnotify.Create) && identity(kubelet) != told || event.Name == path && gone(path) {
				return nil
			}
		case err := <-watcher.Errors:
			return fmt.Errorf("fuse device: watch the kubelet's directory: %w", err)
		}
	}
}

// identity tells a file from a later one of the same name.
func identity(path string) string {
	var s unix.Stat_t
	if unix.Stat(path, &s) != nil {
		return ""
	}
	return fmt.Sprint(s.Ino, s.Ctim)
}

func gone(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, os.ErrNotExist)
}

func (p *Plugin) pause(ctx context.Context) error {
	wait := time.NewTimer(time.Second)
	defer wait.Stop()
	select {
	case <-ctx.Done():
	case <-wait.C:
	}
	return nil
}

func (p *Plugin) register(ctx context.Context, kubelet string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+kubelet, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = api.NewRegistrationClient(conn).Register(ctx, &api.RegisterRequest{Version: api.Version, Endpoint: socket, ResourceName: Resource})
	return err
}

// GetDevicePluginOptions asks for nothing more.
func (p *Plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

// ListAndWatch tells of the devices, and again when /dev/fuse comes or goes.
func (p *Plugin) ListAndWatch(_ *api.Empty, stream api.DevicePlugin_ListAndWatchServer) error {
	tick := time.NewTicker(p.cfg.Look)
	defer tick.Stop()
	last := ""
	for {
		if health := p.health(); health != last {
			if err := stream.Send(&api.ListAndWatchResponse{Devices: p.devices(health)}); err != nil {
				return err
			}
			last = health
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-tick.C:
		}
	}
}

func (p *Plugin) health() string {
	if info, err := os.Stat(p.cfg.Seen); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return api.Unhealthy
	}
	return api.Healthy
}

func (p *Plugin) devices(health string) (out []*api.Device) {
	for i := range p.cfg.Devices {
		out = append(out, &api.Device{ID: "fuse-" + strconv.Itoa(i), Health: health})
	}
	return out
}

// Allocate gives /dev/fuse, whichever of the devices it is.
func (p *Plugin) Allocate(_ context.Context, r *api.AllocateRequest) (*api.AllocateResponse, error) {
	out := &api.AllocateResponse{}
	for range r.GetContainerRequests() {
		out.ContainerResponses = append(out.ContainerResponses, &api.ContainerAllocateResponse{Devices: []*api.DeviceSpec{
			{HostPath: p.cfg.Device, ContainerPath: "/dev/fuse", Permissions: "rw"},
		}})
	}
	return out, nil
}
