package hostpath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// Pool offers the volumes of a sandbox's pool, which somebody else, as the kubelet does, has mounted below one directory.
type Pool struct {
	*Driver
	fenced func(m mount.Mount, options string) error
}

// NewPool makes the driver for the volumes in dir, which is not there when the pool has none. fenced refuses an NFS volume, mounted with
// options, whose restrictions the sandbox could walk around.
func NewPool(dir string, fenced func(m mount.Mount, options string) error) (*Pool, error) {
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
		err = p.fence(m, src.Root)
	}
	if err != nil {
		_ = src.Root.Close()
		return mount.Source{}, err
	}
	return src, nil
}

func (p *Pool) fence(m mount.Mount, root *os.File) error {
	o, err := options(root)
	if err != nil {
		return err
	}
	return p.fenced(m, o)
}

// options are those of the file system that root lies in, as the mount table has them. No server is asked.
func options(root *os.File) (string, error) {
	defer runtime.KeepAlive(root)
	var st unix.Statx_t
	if err := unix.Statx(int(root.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return "", fmt.Errorf("look for a volume of the pool: %w", err)
	}
	table, err := os.ReadFile("/proc/thread-self/mountinfo") // self is the first thread, which may be in another namespace
	if err != nil {
		return "", fmt.Errorf("mount table: %w", err)
	}
	for line := range strings.Lines(string(table)) {
		about, system, _ := strings.Cut(line, " - ") // its type, its source and its options
		id, _, _ := strings.Cut(about, " ")
		if fields := strings.Fields(system); id == strconv.FormatUint(st.Mnt_id, 10) && len(fields) > 2 {
			return fields[len(fields)-1], nil
		}
	}
	return "", fmt.Errorf("%w: this volume of the pool is not mounted any more", mount.ErrUnavailable)
}
