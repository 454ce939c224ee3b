//go:build linux

package attach

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount/subdir"
)

// opener opens the directory name of dir, O_PATH.
type opener func(dir int, name string) (int, error)

func existing(dir int, name string) (int, error) {
	return subdir.Open(dir, name, unix.O_PATH, subdir.Strict)
}

// walk opens the directory rel, which is relative to dir, one component after the other by next. The caller owns dir and the result.
func walk(dir int, rel string, next opener) (int, error) {
	cur, err := unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0) // opening "." would ask the file system
	if err != nil || rel == "" {
		return cur, err
	}
	for name := range strings.SplitSeq(rel, "/") {
		fd, err := step(cur, name, next)
		closeFD(cur)
		if err != nil {
			return -1, fault(fmt.Sprintf("%q", name), err)
		}
		cur = fd
	}
	return cur, nil
}

func step(dir int, name string, next opener) (int, error) {
	if name == "" || name == "." || name == ".." {
		return -1, unix.EXDEV
	}
	return next(dir, name)
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
