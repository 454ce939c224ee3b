// Package subdir opens the directories of a path one after the other, and makes those that are missing, in places where others make, rename and
// remove directories at the same time. It knows neither volumes nor mounts.
package subdir

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Strict is how a component of a volume's path is opened: beneath its parent, through no link of any kind, into no other mount.
const Strict = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// Open opens the directory name of dir. flags are O_PATH or O_RDONLY; resolve is Strict, or what else openat2 is to hold to.
func Open(dir int, name string, flags, resolve uint64) (int, error) {
	how := &unix.OpenHow{Flags: flags | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: resolve}
	for {
		fd, err := unix.Openat2(dir, name, how)
		// EAGAIN: a rename somewhere on the machine raced with the check for "beneath".
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}

// Empty says whether dir has no entries.
func Empty(dir int) (bool, error) {
	fd, err := Open(dir, ".", unix.O_RDONLY, Strict)
	if err != nil {
		return false, err
	}
	defer closeFD(fd)
	buf := make([]byte, 4096)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil || n == 0 {
			return err == nil, err
		}
		if _, _, names := unix.ParseDirent(buf[:n], -1, nil); len(names) > 0 {
			return false, nil
		}
	}
}

// closeFD closes a descriptor whose closing has nothing to report: it was never written through.
func closeFD(fd int) { _ = unix.Close(fd) }
