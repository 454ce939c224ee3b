//go:build linux

// Package attach puts a volume into a running container: a clone of the volume's mount, or of one directory of it, is made here
// with all its flags set and then moved to its place in the container's mount namespace. Only here is the file system real, so
// only here are paths proved safe at run time: every component is opened beneath the one before it, never through a link, never
// across a mount. It knows mount namespaces and trees, and nothing of drivers, journals or requests.
package attach

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// What callers can act on, compared with errors.Is.
var (
	// ErrBusy: something is mounted at the target, the target is not empty, or the mount is in use.
	ErrBusy = errors.New("busy")
	// ErrUnsafe: a path leads through a symbolic link, another mount or something else that is no plain directory.
	ErrUnsafe = errors.New("unsafe path")
	// ErrNotFound: a directory does not exist and may not be made, or the mount is not there any more.
	ErrNotFound = errors.New("not found")
	// ErrNoClone: the mount is bound not to be cloned, or no mount any more.
	ErrNoClone = errors.New("cannot be cloned")
	// ErrReadOnly: a directory is missing and the file system that should hold it refuses writes.
	ErrReadOnly = errors.New("read-only file system")
	// ErrGone: the container whose namespace this was is gone.
	ErrGone = errors.New("container is gone")
	// ErrStuck: the call ended while the kernel held its thread, which is abandoned; what it may still do is undone.
	ErrStuck = errors.New("kernel call does not return")
)

// fault turns the kernel's answer about the path at where into one of the sentinels above.
func fault(where string, err error) error {
	var kind error
	switch {
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENOTDIR):
		kind = ErrUnsafe
	case errors.Is(err, unix.ENOENT):
		kind = ErrNotFound
	case errors.Is(err, unix.EBUSY):
		kind = ErrBusy
	case errors.Is(err, unix.EROFS):
		kind = ErrReadOnly
	default:
		return fmt.Errorf("%s: %w", where, err)
	}
	return fmt.Errorf("%s: %w: %w", where, kind, err)
}
