package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
	"github.com/sandgate-dev/sandgate/warmpool/local/container"
	"github.com/sandgate-dev/sandgate/warmpool/local/rootfs"
)

// Config is what a Backend needs. Fields without a default are required.
type Config struct {
	Pool
	// State is the directory of everything that outlives the process. One process at a time uses it.
	State string
	// Envd and Starter are the programs that run in every sandbox: static, and copied into State before they are used.
	Envd, Starter string
	// EnvdVersion is the version of the daemon's wire.
	EnvdVersion string
	// Drivers mount the volumes, by name; Policy is applied to each mount again. Probe reads volumes that can hang.
	Drivers map[string]node.Driver
	Policy  mount.Policy
	Probe   node.Probe
	// Log is required.
	Log *slog.Logger
}

func (c Config) check() error {
	switch {
	case !filepath.IsAbs(c.State):
		return errors.New("local: State must be an absolute path")
	case c.Envd == "" || c.Starter == "" || c.EnvdVersion == "":
		return errors.New("local: Envd, Starter and EnvdVersion are needed; every sandbox runs these programs")
	case len(c.Drivers) == 0 || c.Probe == nil:
		return errors.New("local: Drivers and Probe are needed; without them no volume can be mounted")
	case c.Log == nil:
		return errors.New("local: Log is needed")
	case os.Getuid() != 0:
		return errors.New("local: sandboxes on this machine need root: namespaces, overlays and cgroups are its alone")
	}
	return nil
}

// New takes the state directory for this process and prepares what sandboxes are made of. Run makes them.
func New(cfg Config) (*Backend, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	l := layout(cfg.State)
	unlock, err := l.lock()
	if err != nil {
		return nil, err
	}
	b, err := build(cfg, l)
	if err != nil {
		unlock()
		return nil, err
	}
	b.unlock = unlock
	return b, nil
}

func build(cfg Config, l layout) (*Backend, error) {
	if err := l.prepare(); err != nil {
		return nil, err
	}
	skeleton, err := rootfs.Load("/")
	if err != nil {
		return nil, fmt.Errorf("local: %w", err)
	}
	etc, err := l.share(skeleton)
	if err != nil {
		return nil, err
	}
	programs, err := l.install(map[string]string{"envd": cfg.Envd, "starter": cfg.Starter})
	if err != nil {
		return nil, err
	}
	tokenKey, initKey, err := l.keys()
	if err != nil {
		return nil, err
	}
	signer, err := initialize.NewSigner(initKey, cfg.Clock)
	if err != nil {
		return nil, fmt.Errorf("local: %w", err)
	}
	containers, err := container.New(container.Config{Dir: l.runc(), Group: l.group(), Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	m := &host{
		layout: l, log: cfg.Log, containers: containers, skeleton: skeleton, etc: etc, programs: programs, signer: signer,
		drivers: cfg.Drivers, policy: cfg.Policy, probe: cfg.Probe, clock: cfg.Clock, threads: attach.NewThreads(attach.DefaultThreads),
	}
	b, err := newBackend(cfg.Pool, cfg.Log, m, tokenKey, size(), skeleton.Digest()+filepath.Base(programs)+signer.PublicKey(), cfg.EnvdVersion)
	if err != nil {
		return nil, err
	}
	b.drivers = cfg.Drivers
	return b, nil
}

// Check says what the driver of a volume would refuse, so that no sandbox is spent on it.
func (b *Backend) Check(m mount.Mount) error {
	d := b.drivers[m.Driver]
	if d == nil {
		return fmt.Errorf("%w: no driver %q is installed here", mount.ErrInvalid, m.Driver)
	}
	return d.Check(m)
}

// Close gives the state directory back when Run was never called. Run does it at its end.
func (b *Backend) Close() { b.unlock() }

func size() machineSize {
	var info unix.Sysinfo_t
	s := machineSize{cpus: runtime.NumCPU(), memoryMB: 128}
	if unix.Sysinfo(&info) == nil {
		s.memoryMB = int(uint64(info.Totalram) * uint64(info.Unit) >> 20) //nolint:unconvert // its width differs by architecture
	}
	return s
}

// Clean ends every sandbox of a state directory and removes what is left of it: processes, mounts, cgroups and directories. It
// works without a process that serves it, also after that was killed; it refuses while one does. Of cfg it needs State, Log,
// Drivers (which end the volumes' clients) and Probe.
func Clean(ctx context.Context, cfg Config) error {
	if !filepath.IsAbs(cfg.State) || cfg.Log == nil || len(cfg.Drivers) == 0 || cfg.Probe == nil {
		return errors.New("local: Clean needs State (an absolute path), Log, Drivers and Probe")
	}
	l, log := layout(cfg.State), cfg.Log
	if _, err := os.Stat(cfg.State); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	containers, err := container.New(container.Config{Dir: l.runc(), Group: l.group(), Log: log})
	if err != nil {
		return err
	}
	m := &host{layout: l, log: log, containers: containers, drivers: cfg.Drivers, probe: cfg.Probe, threads: attach.NewThreads(attach.DefaultThreads)}
	known, err := m.Known()
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range known {
		if err := m.Discard(ctx, id); err != nil {
			errs = append(errs, err)
			continue
		}
		log.Info("sandbox ended", "sandbox", id)
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return errors.Join(containers.Close(), l.removeAll())
}
