//go:build linux

package attach

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// openTree clones the mount that dir is in, from dir on, and nothing that is mounted below it.
var openTree = func(dir int) (int, error) {
	return unix.OpenTree(dir, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
}

// clone is openTree for all kernels. Those before 6.15 clone only what the thread's own namespace has, and answer EINVAL to a
// detached mount. root is its root directory, and may be that of another clone afterwards, which serves as well.
func clone(root, dir int) (int, error) {
	fd, err := openTree(dir)
	if !errors.Is(err, unix.EINVAL) {
		return fd, err
	}
	type answer struct {
		fd  int
		err error
	}
	done := make(chan answer, 1)
	throwAway(func() {
		fd, err := cloneMoved(root, dir)
		done <- answer{fd, err}
	})
	there := <-done
	return there.fd, there.err
}

// cloneMoved gives its thread a mount namespace of its own, puts the mount there, on top of "/", and clones it: no other mount
// table ever shows it. With the thread the mount is gone from everywhere, and cannot be cloned again; its clones stay. One of them
// takes its place.
func cloneMoved(root, dir int) (int, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return -1, err
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return -1, err
	}
	if err := unix.MoveMount(root, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		if errors.Is(err, unix.EINVAL) {
			err = fmt.Errorf("%w: %w", ErrNoClone, err)
		}
		return -1, err
	}
	if err := renew(root); err != nil {
		return -1, fmt.Errorf("%w any more: %w", ErrNoClone, err)
	}
	return openTree(dir)
}

// renew makes root, the root directory of a mount, that of a clone of it.
func renew(root int) error {
	fd, err := openTree(root)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	return unix.Dup3(fd, root, unix.O_CLOEXEC)
}
