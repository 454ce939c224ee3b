//go:build linux

package attach

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// beneath is move_mount's flag for a mount under the one that is there; kernels before 6.5 answer EINVAL to it.
var beneath = 0x200 // MOVE_MOUNT_BENEATH, which golang.org/x/sys does not have

// between is called when both are there, the old one above; tests die in it.
var between = func() {}

// Replace puts t where the mount old is, and takes old away: beneath it first, so that at no moment anybody sees the bare directory.
// Kernels before 6.5 take old away before; nothing else that this process does there comes in between. Whoever has a file or his working
// directory in old keeps the old tree until he lets go. An old that is not there any more makes it an Attach. When it fails after old
// was taken away, nothing is there.
func (n *Namespace) Replace(ctx context.Context, t *Tree, target string, old uint64, o AttachOptions) (uint64, error) {
	rel, err := relative(target)
	if err != nil {
		return 0, err
	}
	tree, err := unix.FcntlInt(t.f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("replace %s: %w", target, err)
	}
	work := func() error { return replace(tree, t.id, rel, old, o) }
	undo := func() { _ = remove(rel, t.id, true) } // nobody waits for the outcome any more
	if err := n.enter(ctx, true, work, undo, func() { closeFD(tree) }); err != nil {
		return 0, fmt.Errorf("replace %s: %w", target, err)
	}
	return t.id, nil
}

// replace runs in the namespace. It looks again after each try: the container may move directories about meanwhile.
func replace(tree int, id uint64, rel string, old uint64, o AttachOptions) error {
	return persist(func() (bool, error) {
		where, err := find(rel, old)
		if err != nil {
			return true, err
		}
		if where == "" {
			return true, put(tree, id, rel, o)
		}
		err = slide(tree, where, old)
		switch {
		case errors.Is(err, unix.EINVAL):
			if err := removeAt(where, old, true); err != nil {
				return true, err
			}
			return true, put(tree, id, where, AttachOptions{AllowNonEmpty: true})
		case err == nil:
			between()
			return true, uncover(where, id, old)
		case moved(err):
			return false, nil
		}
		return true, err
	})
}

// slide puts the tree beneath the mount old.
func slide(tree int, rel string, old uint64) error {
	dir, name, err := parent(rel, existing)
	if err != nil {
		return err
	}
	defer closeFD(dir)
	root, err := openRoot(dir, name, old)
	if err != nil {
		return err
	}
	defer closeFD(root)
	err = unix.MoveMount(tree, "", root, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH|beneath)
	if err != nil {
		return fault("move mount beneath", err)
	}
	return nil
}

// uncover takes the mount old from above the mount id, and makes sure that this one is there.
func uncover(rel string, id, old uint64) error {
	if err := remove(rel, old, true); err != nil {
		return errors.Join(err, remove(rel, id, true))
	}
	if there, err := at(rel, id); err == nil && there {
		return nil
	}
	// A directory above it was renamed just now, or somebody has mounted over it.
	if where, err := find(rel, id); err != nil || where == "" {
		return errors.Join(fmt.Errorf("%w: the volume vanished while it was attached", ErrNotFound), err)
	}
	return nil
}
