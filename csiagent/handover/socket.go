//go:build linux

package handover

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// socket is a listening socket that any user may connect to, in a directory that it keeps open: the path is never looked up again.
type socket struct {
	*net.UnixListener
	dir  *os.File
	name string
	id   file
}

// listen makes the socket. One left by an earlier process is replaced; anything else at path is an error.
func listen(path string) (*socket, error) {
	dir, err := os.OpenFile(filepath.Dir(path), unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open directory of hand-over socket: %w", err)
	}
	s := &socket{dir: dir, name: filepath.Base(path)}
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("hand-over socket: %w", err), dir.Close())
	}
	return s, nil
}

func (s *socket) open() error {
	if st, err := s.stat(); err == nil {
		if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
			return fmt.Errorf("%s exists and is no socket: choose another path", s.name)
		}
		if err := unix.Unlinkat(int(s.dir.Fd()), s.name, 0); err != nil {
			return fmt.Errorf("remove old socket: %w", err)
		}
	}
	fd, err := bind(int(s.dir.Fd()), s.name)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), s.name)
	defer func() { _ = f.Close() }() // FileListener has its own
	l, err := net.FileListener(f)
	if err != nil {
		return err
	}
	s.UnixListener = l.(*net.UnixListener)
	st, err := s.stat()
	s.id = file{st.Dev, st.Ino}
	return err
}

func (s *socket) stat() (st unix.Stat_t, err error) {
	err = unix.Fstatat(int(s.dir.Fd()), s.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// close ends listening, and removes the socket unless another process has put its own there.
func (s *socket) close() error {
	err := s.Close()
	if st, serr := s.stat(); serr == nil && (file{st.Dev, st.Ino}) == s.id {
		err = errors.Join(err, unix.Unlinkat(int(s.dir.Fd()), s.name, 0))
	}
	return errors.Join(err, s.dir.Close())
}

// bind returns a socket that listens at name in dir, open to every user. It goes through dir's descriptor, which also lifts the
// limit on a socket's path.
func bind(dir int, name string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir, name)})
	if err == nil {
		err = openToAll(dir, name)
	}
	if err == nil {
		err = unix.Listen(fd, 16)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// openToAll sets the mode of the socket itself, never of something that took its name.
func openToAll(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("%s was replaced by something that is no socket", name)
	}
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), 0o666)
}
