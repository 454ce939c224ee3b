package oss

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/mount/process"
)

// Sweep kills the clients that an earlier process has started on dir and did not live to hand on. One that waits for a store that does
// not answer would stay for minutes, although nobody has its mount any more. Processes in other mount namespaces are not ours, whatever
// they say their arguments are.
func (d *Driver) Sweep(ctx context.Context, dir string) error {
	ours, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err != nil {
		return fmt.Errorf("find FUSE clients: %w", err)
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return fmt.Errorf("find FUSE clients: %w", err)
	}
	now, cancel := context.WithCancel(context.WithoutCancel(ctx))
	cancel()
	var errs []error
	for _, at := range all {
		p, found := serving(at, ours, dir)
		if !found {
			continue
		}
		killed, err := end(now, p)
		if killed && err == nil {
			d.config.Logger.InfoContext(ctx, "killed a FUSE client of an earlier process that nobody had", "pid", p.PID)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// serving says whether the process at a directory of /proc has dir among its arguments. Its start is read first: should it end and its
// number be given away meanwhile, the start is not that of the one that is killed.
func serving(at, namespace, dir string) (mount.Process, bool) {
	pid, err := strconv.Atoi(filepath.Base(at))
	if err != nil || pid == os.Getpid() {
		return mount.Process{}, false
	}
	p, err := process.Of(pid)
	if err != nil {
		return mount.Process{}, false
	}
	line, err := os.ReadFile(filepath.Join(at, "cmdline"))
	if err != nil || !slices.ContainsFunc(bytes.Split(line, []byte{0}), func(arg []byte) bool { return string(arg) == dir }) {
		return mount.Process{}, false
	}
	if its, err := os.Readlink(filepath.Join(at, "ns", "mnt")); err != nil || its != namespace {
		return mount.Process{}, false
	}
	return p, true
}
