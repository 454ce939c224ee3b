//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/e2e/world"
)

// clients are the FUSE clients of the agent: they have its directory among their arguments.
func (s *stage) clients() ([]int, error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, name := range names {
		comm, _ := os.ReadFile(name)
		if strings.TrimSpace(string(comm)) != "s3fs" {
			continue
		}
		args, _ := os.ReadFile(filepath.Join(filepath.Dir(name), "cmdline"))
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil && bytes.Contains(args, []byte(s.state())) {
			out = append(out, pid)
		}
	}
	return out, nil
}

// client is the one FUSE client that the agent has.
func (s *stage) client() (int, error) {
	pids, err := s.clients()
	if err == nil && len(pids) != 1 {
		err = fmt.Errorf("the agent has %d FUSE clients, expected 1", len(pids))
	}
	if err != nil {
		return 0, err
	}
	return pids[0], nil
}

// outsider is the same client as the agent's, started by us with the same arguments on a directory of the machine.
type outsider struct {
	dir string
	cmd *exec.Cmd
}

// arguments are those of the agent's client pid, which serves dir.
func (s *stage) arguments(pid int, dir string) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil, err
	}
	args := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
	at := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, s.state()) })
	if at < 0 {
		return nil, fmt.Errorf("process %d serves no directory of the agent", pid)
	}
	args[at] = dir
	return args, nil
}

// outside starts a client and returns when its directory was read.
func (s *stage) outside(ctx context.Context, args []string, dir string) (*outsider, error) {
	secret, err := os.Create(filepath.Join(s.dir, "passwd"))
	if err != nil {
		return nil, err
	}
	defer secret.Close()
	if _, err := fmt.Fprintf(secret, "%s:%s:%s\n", world.Bucket, s.store.Access, s.store.Secret); err != nil {
		return nil, err
	}
	if err := secret.Chmod(0o600); err != nil {
		return nil, err
	}
	if _, err := secret.Seek(0, 0); err != nil {
		return nil, err
	}
	o := &outsider{dir: dir, cmd: &exec.Cmd{Path: args[0], Args: args, Dir: "/", ExtraFiles: []*os.File{secret}}}
	if err := o.cmd.Start(); err != nil {
		return nil, err
	}
	within, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = poll(within, func() bool {
		var st unix.Statfs_t
		return unix.Statfs(dir, &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC
	})
	if err == nil {
		_, err = os.ReadDir(dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the client that was started by hand: %w", err), o.end())
	}
	return o, nil
}

// end unmounts, and waits for the client's end.
func (o *outsider) end() error {
	if err := unix.Unmount(o.dir, 0); err != nil {
		_ = unix.Unmount(o.dir, unix.MNT_DETACH)
		_ = o.cmd.Process.Kill()
		return errors.Join(err, o.cmd.Wait())
	}
	return o.cmd.Wait()
}
