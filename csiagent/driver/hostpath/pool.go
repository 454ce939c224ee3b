package hostpath

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// Pool offers the volumes of a sandbox's pool, which somebody else, as the kubelet does, has mounted below one directory.
type Pool struct {
	*Driver
	fenced func(mount.Mount) error
}

// NewPool makes the driver for the volumes in dir, which is not there when the pool has none. fenced refuses an NFS volume whose
// restrictions the sandbox could walk around.
func NewPool(dir string, fenced func(mount.Mount) error) (*Pool, error) {
	prefixes := []string{dir}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		prefixes = nil
	}
	driver, err := New(Config{Prefixes: prefixes})
	return &Pool{driver, fenced}, err
}

// Mount opens the volume. An NFS one that is to be read-only, or of this sandbox alone, needs the same fence as one that we mount ourselves.
func (p *Pool) Mount(ctx context.Context, m mount.Mount, dir string) (mount.Source, error) {
	src, err := p.Driver.Mount(ctx, m, dir)
	switch {
	case errors.Is(err, mount.ErrDenied), errors.Is(err, mount.ErrNotFound):
		return src, fmt.Errorf("%w: the sandbox was made without this volume of its pool", mount.ErrNotFound)
	case err != nil:
		return src, err
	}
	if src.FSType == nfs {
		err = p.fenced(m)
	}
	if err != nil {
		_ = src.Root.Close()
		return mount.Source{}, err
	}
	return src, nil
}
