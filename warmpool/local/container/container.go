// Package container runs one Linux container per sandbox through runc, with walls that do not depend on who asks: own
// namespaces, a pinned seccomp profile, few capabilities, cgroup limits, nothing mounted on the host. It knows no pool, no
// daemon inside and no volume; the network namespace it makes has loopback only.
package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// Config says where a Runtime keeps its things.
type Config struct {
	// Dir is runc's own state directory.
	Dir string
	// Group is the name of the cgroup, in the root of each hierarchy, that holds the cgroups of all sandboxes.
	Group string
	// Command is the runc binary; empty looks for runc in PATH.
	Command string
	Log     *slog.Logger
}

// Runtime makes and ends containers. Safe for concurrent use; one container is the business of one caller at a time.
type Runtime struct {
	cfg     Config
	runc    *runc.Runc
	groups  groups
	rlimits bool
}

// New checks that this machine can run containers.
func New(cfg Config) (*Runtime, error) {
	if cfg.Dir == "" || cfg.Group == "" || strings.ContainsAny(cfg.Group, "/\x00") || cfg.Log == nil {
		return nil, errors.New("container: Dir, Group (one path component) and Log are needed")
	}
	if cfg.Command == "" {
		cfg.Command = "runc"
	}
	path, err := exec.LookPath(cfg.Command)
	if err != nil {
		return nil, fmt.Errorf("container: runc is needed to run sandboxes; install it (Debian: apt-get install runc): %w", err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("container: %w", err)
	}
	g, err := findGroups(cfg.Group)
	if err != nil {
		return nil, err
	}
	r := &Runtime{
		cfg:    cfg,
		runc:   &runc.Runc{Command: path, Root: cfg.Dir, Setpgid: true},
		groups: g, rlimits: canRaiseLimits(),
	}
	if !r.rlimits {
		cfg.Log.Info("without CAP_SYS_RESOURCE sandboxes inherit this process's resource limits", "dropped", "process.rlimits")
	}
	return r, nil
}

// Run starts s detached, with out for what it prints, and returns the PID of its first process. bundle is an existing directory
// for the container's specification; it belongs to the container until Delete. What is left after an error is Delete's to remove.
func (r *Runtime) Run(ctx context.Context, bundle string, s Spec, out *Output) (int, error) {
	spec, err := r.specification(s)
	if err != nil {
		return 0, err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return 0, fmt.Errorf("container %s: %w", s.ID, err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600); err != nil {
		return 0, fmt.Errorf("container %s: %w", s.ID, err)
	}
	pidFile := filepath.Join(bundle, "pid")
	run := func() error {
		_, err := r.runc.Run(ctx, s.ID, bundle, &runc.CreateOpts{IO: streams{out}, PidFile: pidFile, Detach: true})
		return err
	}
	if s.Patient {
		run = patiently(run)
	}
	if err := run(); err != nil {
		return 0, fmt.Errorf("container %s: %w: %s", s.ID, err, out.Tail())
	}
	pid, err := runc.ReadPidFile(pidFile)
	if err != nil {
		return 0, fmt.Errorf("container %s: %w", s.ID, err)
	}
	return pid, nil
}

// Delete kills everything in the container and removes what runc and the kernel keep of it; none is fine. It needs no runc: with
// its processes a container's namespaces and mounts are gone, and its cgroups and runc's note of it are directories. That makes
// it cheap, and works for a container whose making was cut short, which runc does not know.
func (r *Runtime) Delete(ctx context.Context, id string) error {
	if err := r.groups.kill(ctx, id); err != nil {
		return err
	}
	if err := r.groups.remove(id); err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	if err := os.RemoveAll(filepath.Join(r.cfg.Dir, id)); err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	return nil
}

// IDs lists the containers that runc or a cgroup still knows, living or not.
func (r *Runtime) IDs() ([]string, error) {
	seen := map[string]bool{}
	for _, id := range r.groups.list() {
		seen[id] = true
	}
	entries, err := os.ReadDir(r.cfg.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("container: %w", err)
	}
	for _, e := range entries {
		seen[e.Name()] = true
	}
	out := make([]string, 0, len(seen))
	for id := range seen {
		out = append(out, id)
	}
	return out, nil
}

// Close removes the parent cgroup when no container is left in it. Containers that live keep it.
func (r *Runtime) Close() error { return r.groups.remove("") }

func canRaiseLimits() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

func parseInt(s string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
