package oss

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/mount/process"
)

// errEnded is a client that ended before it had mounted.
var errEnded = errors.New("the FUSE client ended")

// mounted waits until the client has mounted on dir and returns the type of its file system. It wakes up when the mount table
// changes or the client ends, and asks nothing of the client, which may not answer yet.
func mounted(ctx context.Context, p mount.Process, dir string) (string, error) {
	// Not self: that is the first thread, which may be in another namespace. Not os.Open: the runtime would wait for the file as well, and
	// of two who wait on one, only the first to look sees the change.
	fd, err := unix.Open("/proc/thread-self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	table := os.NewFile(uintptr(fd), "mountinfo")
	defer func() { _ = table.Close() }()
	client, err := process.Open(p)
	if err != nil && !errors.Is(err, process.ErrEnded) {
		return "", err
	}
	defer func() { _ = client.Close() }()
	over := err != nil
	for {
		switch fstype, err := typeOf(table, dir); {
		case err != nil:
			return "", err
		case fstype != "":
			return fstype, nil
		case over:
			return "", errEnded
		case ctx.Err() != nil:
			return "", fmt.Errorf("%w: the FUSE client has not mounted in time", mount.ErrUnavailable)
		}
		fds := []unix.PollFd{{Fd: int32(table.Fd()), Events: unix.POLLPRI}, {Fd: int32(client.Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, int(patience(ctx).Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return "", err
		}
		over = fds[1].Revents != 0 // look at the table once more, then give up
	}
}

// patience is how long one poll may take before ctx is looked at again.
func patience(ctx context.Context) time.Duration {
	const slice = 50 * time.Millisecond
	if at, ok := ctx.Deadline(); ok {
		return max(min(slice, time.Until(at)), 0)
	}
	return slice
}

// typeOf is the type of the file system mounted on dir, "" when there is none.
func typeOf(table *os.File, dir string) (string, error) {
	var st unix.Statx_t
	// DONT_SYNC: the client behind a mount is not asked.
	err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_STATX_DONT_SYNC|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &st)
	if err != nil {
		return "", fmt.Errorf("look at staging directory: %w", err)
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return "", nil
	}
	if _, err := table.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	id := strconv.FormatUint(st.Mnt_id, 10) + " "
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		if line := lines.Text(); strings.HasPrefix(line, id) {
			_, tail, _ := strings.Cut(line, " - ")
			fstype, _, _ := strings.Cut(tail, " ")
			return fstype, nil
		}
	}
	return "", lines.Err()
}

// unmount takes away whatever is mounted on dir, in this process's mount table only.
func unmount(dir string) error {
	for {
		switch err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); {
		case err == nil:
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		default:
			return fmt.Errorf("unmount staging directory: %w", err)
		}
	}
}
