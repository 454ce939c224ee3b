//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/e2e/leak"
	"github.com/sandgate-dev/sandgate/e2e/world"
)

// sandboxUID is what the agent takes our one sandbox for.
const sandboxUID = "storagebench"

// stage is an agent in its own process, a sandbox's mount namespace and an object store. Volumes are published over the channel, as the
// gateway does it.
type stage struct {
	cfg    config
	dir    string
	before leak.Snapshot
	store  *world.Store
	pool   *channel.Pool
	agent  *channel.Agent

	server *exec.Cmd // the agent
	box    *exec.Cmd // the sandbox's first process
}

func newStage(ctx context.Context, cfg config) (_ *stage, err error) {
	dir, err := os.MkdirTemp("", "sandgate-storagebench-")
	if err != nil {
		return nil, err
	}
	s := &stage{cfg: cfg, dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(context.WithoutCancel(ctx)))
		}
	}()
	if s.before, err = s.scope().Take(); err != nil {
		return nil, err
	}
	for _, d := range []string{"agent", "identity", "host", "sandbox", "outside"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := unix.Mount("tmpfs", s.state(), "tmpfs", 0, "mode=0700"); err != nil { // in a pod it is in memory too
		return nil, err
	}
	if s.store, err = world.StartStore(ctx, filepath.Join(cfg.bin, "versitygw"), filepath.Join(dir, "store")); err != nil {
		return nil, err
	}
	if err := s.startAgent(ctx); err != nil {
		return nil, err
	}
	return s, s.startBox(ctx)
}

func (s *stage) scope() leak.Scope { return leak.Scope{Marks: []string{s.dir}} }

func (s *stage) startAgent(ctx context.Context) error {
	authority, err := channel.NewAuthority(time.Now())
	if err != nil {
		return err
	}
	own, err := authority.Agent(sandboxUID, time.Now())
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{"tls.crt": own.Cert, "tls.key": own.Key, "ca.crt": own.CA} {
		if err := os.WriteFile(filepath.Join(s.dir, "identity", name), text, 0o600); err != nil {
			return err
		}
	}
	client, err := authority.Client(channel.Gateway, time.Now())
	if err != nil {
		return err
	}
	if s.pool, err = channel.NewPool(channel.PoolConfig{
		Identity: func() (channel.Identity, error) { return client, nil }, Log: slog.New(slog.DiscardHandler),
	}); err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(s.dir, "agent.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	s.server = exec.Command(s.cfg.agent, "serve", "-addr", addr, "-handover", s.socket(), "-state", s.state(),
		"-identity", filepath.Join(s.dir, "identity"), "-allow-host-paths", filepath.Join(s.dir, "host"), "-loopback-endpoints")
	s.server.Stderr = log
	s.server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.server.Start(); err != nil {
		return err
	}
	s.agent = s.pool.Agent(sandboxUID, addr)
	return s.until(ctx, func(channel.State) bool { return true })
}

// startBox makes a mount namespace whose first process is the starter, which hands it over. Its root is this machine's; what is mounted
// in it nobody else sees.
func (s *stage) startBox(ctx context.Context) error {
	s.box = exec.Command("unshare", "--mount", "--propagation", "private", filepath.Join(s.cfg.bin, "starter"), "-socket", s.socket(), "--", "sleep", "infinity")
	s.box.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.box.Start(); err != nil {
		return err
	}
	return s.until(ctx, func(state channel.State) bool { return state.HandedOver })
}

// state is the agent's directory, which its clients have among their arguments.
func (s *stage) state() string { return filepath.Join(s.dir, "agent") }

func (s *stage) socket() string { return filepath.Join(s.dir, "handover.sock") }

// until waits for a state of the agent.
func (s *stage) until(ctx context.Context, holds func(channel.State) bool) error {
	within, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err := poll(within, func() bool {
		state, err := s.agent.State(within)
		return err == nil && holds(state)
	})
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(s.dir, "agent.log"))
		return fmt.Errorf("the agent does not get ready: %w\n%s", err, log)
	}
	return nil
}

// poll waits until ready holds or ctx ends.
func poll(ctx context.Context, ready func() bool) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// close ends everything and reports what is left of it on the machine.
func (s *stage) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var err error
	if s.pool != nil {
		s.pool.Close()
	}
	for _, cmd := range []*exec.Cmd{s.box, s.server} { // an agent gives clients their time when its sandbox is gone
		if cmd != nil && cmd.Process != nil {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait() // by the signal
		}
	}
	_ = unix.Unmount(s.state(), 0) // what is left shows below
	if s.store != nil {
		err = errors.Join(err, s.store.Crash(ctx))
	}
	left, looking := s.scope().Wait(ctx, s.before)
	if len(left) > 0 {
		looking = errors.Join(looking, fmt.Errorf("left on the machine: %q", left))
	}
	if err = errors.Join(err, looking); err == nil {
		err = os.RemoveAll(s.dir)
	}
	return err
}

// path is where we see a path of the sandbox.
func (s *stage) path(parts ...string) string {
	return filepath.Join(append([]string{"/proc", strconv.Itoa(s.box.Process.Pid), "root", s.dir, "sandbox"}, parts...)...)
}

func (s *stage) mount(name, driver string, attributes map[string]string) mount.Mount {
	return mount.Mount{
		Spec: mount.Spec{ID: name, Volume: name, Target: filepath.Join(s.dir, "sandbox", name)}, Driver: driver, VolumeHandle: name,
		Attributes: attributes, Owner: mount.Owner{UID: 1000, GID: 1000},
	}
}

func (s *stage) memory(name string) mount.Mount {
	return s.mount(name, mount.DriverTmpfs, map[string]string{"size": "1Mi"})
}

func (s *stage) host(name string) mount.Mount {
	return s.mount(name, mount.DriverHostPath, map[string]string{"path": filepath.Join(s.dir, "host")})
}

func (s *stage) bucket(name string) mount.Mount {
	m := s.mount(name, mount.DriverOSS, map[string]string{"bucket": world.Bucket, "url": s.store.URL})
	m.Secret = mount.Secret{"akId": s.store.Access, "akSecret": s.store.Secret}
	return m
}

// publish returns how long m took until it was answered: mounted, read and in the sandbox. drop takes it away again.
func (s *stage) publish(ctx context.Context, m mount.Mount) (time.Duration, error) {
	return timed(func() error { return s.agent.Publish(ctx, m) })
}

func (s *stage) drop(ctx context.Context, m mount.Mount) error {
	return s.agent.Unpublish(ctx, node.Identity{VolumeHandle: m.VolumeHandle, Target: m.Target})
}
