// Package subdir opens the directories of a path one after the other, and makes those that are missing, in places where others make, rename and
// remove directories at the same time. It knows neither volumes nor mounts.
package subdir

import (
	"errors"
	"strings"

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

// Opener opens the directory name of dir, as a Maker does.
type Opener func(dir int, name string) (int, error)

// Walk opens the directory rel of dir, one component after the other by next; dir itself when rel is empty. With an error it returns the
// component that is wrong. The caller owns dir and the result.
func Walk(dir int, rel string, next Opener) (fd int, at string, err error) {
	cur, err := unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0) // opening "." would ask the file system
	if err != nil || rel == "" {
		return cur, "", err
	}
	for name := range strings.SplitSeq(rel, "/") {
		fd, err := Step(cur, name, next)
		closeFD(cur)
		if err != nil {
			return -1, name, err
		}
		cur = fd
	}
	return cur, "", nil
}

// Step is next for a name that stays in dir.
func Step(dir int, name string, next Opener) (int, error) {
	if name == "" || name == "." || name == ".." {
		return -1, unix.EXDEV
	}
	return next(dir, name)
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
