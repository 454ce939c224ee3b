package nas

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// strict is how every component of a path is opened: beneath its parent, through no link of any kind, into no other mount.
const strict = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

func open(dir int, name string, flags uint64) (int, error) {
	how := &unix.OpenHow{Flags: flags | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: strict}
	for {
		fd, err := unix.Openat2(dir, name, how)
		// EAGAIN: a rename somewhere on the machine raced with the check for "beneath".
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}

// maker makes the missing directory name in dir.
type maker func(dir int, name string) error

func (t task) maker() maker {
	if t.ReadOnly {
		return nil
	}
	return func(dir int, name string) error { return makeDir(dir, name, t) }
}

// walk opens the directory rel of dir, one component after the other. What is missing is made by mk, unless that is nil.
func walk(dir int, rel string, mk maker) (int, error) {
	cur, err := unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0) // opening "." would ask the server
	if err != nil || rel == "" {
		return cur, failed(stepWalk, "", err)
	}
	for _, name := range strings.Split(rel, "/") {
		next, err := open(cur, name, unix.O_PATH)
		if errors.Is(err, unix.ENOENT) && mk != nil {
			if err = mk(cur, name); err == nil {
				next, err = open(cur, name, unix.O_PATH)
			}
		}
		_ = unix.Close(cur)
		if err != nil {
			var f *fault
			if errors.As(err, &f) {
				return -1, err
			}
			return -1, failed(stepWalk, name, err)
		}
		cur = next
	}
	return cur, nil
}

// private is the first mode of a directory: it tells the one that was made from one that another client put in its place before it
// was opened. It is not 0, since a server may have made it for somebody who must open it.
const private = 0o700

// makeDir makes a directory with t's mode for t's owner. One that somebody else makes meanwhile is left as it is.
func makeDir(dir int, name string, t task) error {
	switch err := unix.Mkdirat(dir, name, private); {
	case errors.Is(err, unix.EEXIST):
		return nil
	case err != nil:
		return failed(stepMake, name, err)
	}
	fd, err := open(dir, name, unix.O_RDONLY)
	if err != nil {
		return failed(stepMake, name, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := fresh(fd); err != nil {
		return failed(stepMake, name, err)
	}
	if err := unix.Fchmod(fd, t.Mode); err != nil {
		return failed(stepMake, name, err)
	}
	if err := give(fd, t); err != nil {
		_ = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) // it would be in the way of whoever mends this
		return failed(stepGive, name, err)
	}
	return nil
}

// give gives a new directory to its owner. A server that squashes root does not let us, which is no harm where anybody may write.
func give(fd int, t task) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Uid == t.UID && st.Gid == t.GID {
		return nil
	}
	err := unix.Fchown(fd, int(t.UID), int(t.GID))
	if errors.Is(err, unix.EPERM) && t.Mode&0o007 == 0o007 {
		return nil
	}
	return err
}

// fresh refuses a directory that is not the empty one that was just made.
func fresh(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&0o777 != private {
		return unix.EEXIST
	}
	buf := make([]byte, 4096)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil || n == 0 {
			return err
		}
		if _, _, names := unix.ParseDirent(buf[:n], -1, nil); len(names) > 0 {
			return unix.EEXIST
		}
	}
}

// setMode gives the volume's own directory the mode that is stated.
func setMode(dir int, mode uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return failed(stepMode, "", err)
	}
	if st.Mode&0o7777 == mode {
		return nil
	}
	return failed(stepMode, "", unix.Fchmodat(dir, ".", mode, 0))
}
