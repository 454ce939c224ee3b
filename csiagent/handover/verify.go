//go:build linux

package handover

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// file identifies a namespace: two descriptors of it have the same device and inode.
type file struct{ dev, ino uint64 }

// self are the namespaces of this process.
type self struct{ mount, user file }

func readSelf() (s self, err error) {
	if s.mount, err = statPath("/proc/self/ns/mnt"); err != nil {
		return s, err
	}
	s.user, err = statPath("/proc/self/ns/user")
	return s, err
}

// verify returns nil when fd is a mount namespace in which its giver can have no more power than this process's user namespace
// gives him. In a namespace made by `unshare -Urm` he could lift every restriction of a mount put there.
func (s self) verify(fd int) error {
	link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil || !strings.HasPrefix(link, "mnt:[") {
		return ErrKind
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNS {
		return ErrType
	}
	own, err := stat(fd)
	if err != nil {
		return fmt.Errorf("look at descriptor: %w", err)
	}
	if own == s.mount {
		return ErrOwn
	}
	user, err := unix.IoctlRetInt(fd, unix.NS_GET_USERNS)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUserSpace, err)
	}
	defer func() { _ = unix.Close(user) }()
	if owner, err := stat(user); err != nil || owner != s.user {
		return ErrUserSpace
	}
	return nil
}

func stat(fd int) (file, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return file{st.Dev, st.Ino}, err
}

func statPath(path string) (file, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return file{}, fmt.Errorf("stat %s: %w", path, err)
	}
	return file{st.Dev, st.Ino}, nil
}
