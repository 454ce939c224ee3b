package oss

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/mount/process"
)

// room is a directory in memory without a name that a client shares with whoever serves it. It is the client's fourth descriptor beside its
// input and output, and ends with it: so a later agent finds it, and nobody finds it later.
type room struct{ dir *os.File }

// roomAt is where a client finds its room.
const roomAt = "/proc/self/fd/4"

// newRoom makes an empty one: a tmpfs that is mounted nowhere.
func newRoom() (room, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return room{}, fmt.Errorf("make room for credentials: %w", err)
	}
	defer func() { _ = unix.Close(fs) }() // it would keep the directory
	for _, o := range []option{{"size", "256k"}, {"nr_inodes", "64"}, {"mode", "0700"}} {
		if err := unix.FsconfigSetString(fs, o.name, o.value); err != nil {
			return room{}, fmt.Errorf("make room for credentials: %s: %w", o.name, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return room{}, fmt.Errorf("make room for credentials: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return room{}, fmt.Errorf("make room for credentials: %w", err)
	}
	return room{os.NewFile(uintptr(fd), "room")}, nil
}

// errNoRoom is a client that was started without one: it has its credentials for good.
var errNoRoom = errors.New("the client has no room")

// roomOf finds the room of a client that an earlier process has started.
func roomOf(p mount.Process) (room, error) {
	if !process.Is(p) {
		return room{}, errEnded
	}
	at := filepath.Join("/proc", strconv.Itoa(p.PID), "fd", filepath.Base(roomAt))
	fd, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return room{}, errNoRoom
	}
	if err != nil {
		return room{}, fmt.Errorf("find a client's room: %w", err)
	}
	r := room{os.NewFile(uintptr(fd), "room")}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil || st.Type != unix.TMPFS_MAGIC || !process.Is(p) {
		r.close()
		return room{}, errNoRoom
	}
	return r, nil
}

// path is one in the room, for this process.
func (r room) path(name string) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(r.dir.Fd())), name)
}

// write replaces a file as a whole.
func (r room) write(name string, content []byte) error {
	if err := os.WriteFile(r.path(name+".new"), content, 0o600); err != nil {
		return errors.New("write credentials: " + plain(err))
	}
	if err := os.Rename(r.path(name+".new"), r.path(name)); err != nil {
		return errors.New("write credentials: " + plain(err))
	}
	return nil
}

// plain is an error of a file without its path, which means nothing to anybody.
func plain(err error) string {
	var number unix.Errno
	if errors.As(err, &number) {
		return number.Error()
	}
	return "not possible"
}

func (r room) close() { _ = r.dir.Close() }
