//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/driver/hostpath"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// pool offers the volumes of the sandbox's pool, which the kubelet has mounted below one directory of this container.
type pool struct {
	*hostpath.Driver
	fenced func(mount.Mount) error
}

// newPool makes the driver for the volumes in dir, which is not there when the pool has none.
func newPool(dir string, fenced func(mount.Mount) error) (*pool, error) {
	prefixes := []string{dir}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		prefixes = nil
	}
	driver, err := hostpath.New(hostpath.Config{Prefixes: prefixes})
	return &pool{driver, fenced}, err
}

// Mount opens the volume. An NFS one that is to be read-only, or of this sandbox alone, needs the same fence as one that we mount ourselves.
func (p *pool) Mount(ctx context.Context, m mount.Mount, dir string) (mount.Source, error) {
	src, err := p.Driver.Mount(ctx, m, dir)
	switch {
	case errors.Is(err, mount.ErrDenied), errors.Is(err, mount.ErrNotFound):
		return src, fmt.Errorf("%w: the sandbox was made without this volume of its pool", mount.ErrNotFound)
	case err != nil:
		return src, err
	}
	var st unix.Statfs_t
	if err = unix.Fstatfs(int(src.Root.Fd()), &st); err == nil && st.Type == unix.NFS_SUPER_MAGIC {
		err = p.fenced(m)
	}
	if err != nil {
		_ = src.Root.Close()
		return mount.Source{}, err
	}
	return src, nil
}
