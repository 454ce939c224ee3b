//go:build linux

package attach

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount/subdir"
)

func existing(dir int, name string) (int, error) {
	return subdir.Open(dir, name, unix.O_PATH, subdir.Strict)
}

// walk is subdir.Walk with errors of this package.
func walk(dir int, rel string, next subdir.Opener) (int, error) {
	fd, name, err := subdir.Walk(dir, rel, next)
	if err != nil {
		return -1, fault(fmt.Sprintf("%q", name), err)
	}
	return fd, nil
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
