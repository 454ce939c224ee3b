//go:build linux

package attach

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// strict is how every component of a path is opened: beneath its parent, through no link of any kind, into no other mount.
const strict = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// open opens the directory name, one component or ".", of dir. flags are O_PATH or O_RDONLY.
func open(dir int, name string, flags, resolve uint64) (int, error) {
	how := &unix.OpenHow{Flags: flags | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: resolve}
	for {
		fd, err := unix.Openat2(dir, name, how)
		// EAGAIN: a rename somewhere on the machine raced with the check for "beneath".
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}

// maker makes the missing directory name in dir and returns it open. When the directory turns up in the meantime it returns unix.EEXIST.
type maker func(dir int, name string) (int, error)

// walk opens the directory rel, which is relative to dir, one component after the other. What is missing is made by mk, unless
// that is nil. The caller owns dir and the result.
func walk(dir int, rel string, mk maker) (int, error) {
	cur, err := unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0) // opening "." would ask the file system
	if err != nil || rel == "" {
		return cur, err
	}
	for name := range strings.SplitSeq(rel, "/") {
		next, err := step(cur, name, mk)
		closeFD(cur)
		if err != nil {
			return -1, fault(fmt.Sprintf("%q", name), err)
		}
		cur = next
	}
	return cur, nil
}

func step(dir int, name string, mk maker) (int, error) {
	if name == "" || name == "." || name == ".." {
		return -1, unix.EXDEV
	}
	fd, err := open(dir, name, unix.O_PATH, strict)
	if !errors.Is(err, unix.ENOENT) || mk == nil {
		return fd, err
	}
	fd, err = mk(dir, name)
	if errors.Is(err, unix.EEXIST) {
		return open(dir, name, unix.O_PATH, strict)
	}
	return fd, err
}

// empty says whether the directory fd has no entries.
func empty(fd int) (bool, error) {
	r, err := open(fd, ".", unix.O_RDONLY, strict)
	if err != nil {
		return false, err
	}
	defer closeFD(r)
	buf := make([]byte, 4096)
	for {
		n, err := unix.Getdents(r, buf)
		if err != nil || n == 0 {
			return err == nil, err
		}
		if _, _, names := unix.ParseDirent(buf[:n], -1, nil); len(names) > 0 {
			return false, nil
		}
	}
}

// identity is the mount that fd is in, by an ID that is never used twice where the kernel has one (6.8), and whether fd is
// that mount's root. It asks no server and no client process of the file system.
func identity(fd int, name string) (id uint64, root bool, err error) {
	flags := unix.AT_STATX_DONT_SYNC | unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	var st unix.Statx_t
	if err := unix.Statx(fd, name, flags, unix.STATX_MNT_ID_UNIQUE, &st); err != nil {
		return 0, false, err
	}
	if st.Mask&unix.STATX_MNT_ID_UNIQUE == 0 {
		if err := unix.Statx(fd, name, flags, unix.STATX_MNT_ID, &st); err != nil {
			return 0, false, err
		}
	}
	return st.Mnt_id, st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// closeFD closes a descriptor whose closing has nothing to report: it was never written through.
func closeFD(fd int) { _ = unix.Close(fd) }
