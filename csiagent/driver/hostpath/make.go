package hostpath

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// private is the first mode of a directory. It tells one that was made here from any other, which somebody may put in its place before it
// is opened. It is not 0, since a server may have made the directory for somebody who must open it; nobody else has a use for its sticky bit.
const private = 0o1700

// makeAll makes the missing directories of rel beneath top; only such ones get the owner.
func makeAll(top *os.File, rel string, owner mount.Owner) error {
	at, err := beneath(top, ".")
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(at) }()
	for _, name := range strings.Split(strings.TrimPrefix(rel, "./"), "/") {
		if err := unix.Mkdirat(at, name, private); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		next, err := openDir(at, name, unix.O_PATH)
		if err != nil {
			return err
		}
		_ = unix.Close(at)
		at = next
		if err := giveAway(at, owner); err != nil {
			return err
		}
	}
	return nil
}

// giveAway gives a directory to owner if it is empty and of the first mode. Whoever comes by does it, for him who has made the directory and
// may have ended: nothing is in one before it is given away. Any other is left as it is.
func giveAway(dir int, owner mount.Owner) error {
	if is, err := isNew(dir); err != nil || !is {
		return err
	}
	fd, err := openDir(dir, ".", unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if bare, err := empty(fd); err != nil || !bare {
		return err
	}
	// While it is still ours: to change the mode of another one's takes a capability that the agent in a pod does not have.
	if err := unix.Fchmod(fd, 0o755); err != nil {
		if is, e := isNew(dir); e == nil && !is {
			return nil // somebody else was faster
		}
		return err
	}
	return unix.Fchown(fd, int(owner.UID), int(owner.GID))
}

func isNew(dir int) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstat(dir, &st)
	return st.Mode&0o1777 == private, err
}

func empty(dir int) (bool, error) {
	buf := make([]byte, 4096)
	for {
		n, err := unix.Getdents(dir, buf)
		if err != nil || n == 0 {
			return err == nil, err
		}
		if _, _, names := unix.ParseDirent(buf[:n], -1, nil); len(names) > 0 {
			return false, nil
		}
	}
}
