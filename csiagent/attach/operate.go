//go:build linux

package attach

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount/subdir"
)

// AttachOptions say what a target may look like.
type AttachOptions struct {
	// AllowNonEmpty accepts a directory with entries, which the mount hides while it is there.
	AllowNonEmpty bool
}

// Attach puts t at target, an absolute path in the container, and returns the ID of the mount. A missing target is made:
// root:root with mode 0555, so that without the mount a write is refused instead of lost; its parents with 0755. The tree counts
// as use of the mount until it is closed. When ctx ends first, what was attached too late is detached again.
func (n *Namespace) Attach(ctx context.Context, t *Tree, target string, o AttachOptions) (uint64, error) {
	rel, err := relative(target)
	if err != nil {
		return 0, err
	}
	tree, err := unix.FcntlInt(t.f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("attach %s: %w", target, err)
	}
	work := func() error { return put(tree, t.id, rel, o) }
	undo := func() { _ = remove(rel, t.id, true) } // nobody waits for the outcome any more
	if err := n.enter(ctx, true, work, undo, func() { closeFD(tree) }); err != nil {
		return 0, fmt.Errorf("attach %s: %w", target, err)
	}
	return t.id, nil
}

// put runs in the namespace.
func put(tree int, id uint64, rel string, o AttachOptions) error {
	dir, err := place(rel, o)
	if err != nil {
		return err
	}
	defer closeFD(dir)
	if err := unix.MoveMount(tree, "", dir, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fault("move mount", err)
	}
	there, err := at(rel, id)
	if err == nil && there {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%w: the target was moved while the volume was attached", ErrUnsafe)
	}
	return errors.Join(err, remove(rel, id, true))
}

// place opens the directory that is to be mounted on, and makes it when it is missing.
func place(rel string, o AttachOptions) (int, error) {
	above, name, err := parent(rel, plain(0o755))
	if err != nil {
		return -1, err
	}
	defer closeFD(above)
	_, mounted, err := identity(above, name)
	if mounted {
		return -1, fmt.Errorf("%w: something is mounted there", ErrBusy)
	}
	dir := -1
	if err == nil || errors.Is(err, unix.ENOENT) {
		dir, err = subdir.Step(above, name, plain(0o555))
	}
	if err != nil {
		return -1, fault(fmt.Sprintf("%q", name), err)
	}
	if o.AllowNonEmpty {
		return dir, nil
	}
	bare, err := subdir.Empty(dir)
	if err == nil && !bare {
		err = fmt.Errorf("%w: the directory is not empty", ErrBusy)
	}
	if err != nil {
		closeFD(dir)
		return -1, err
	}
	return dir, nil
}

// plain opens directories and makes the missing ones with a mode.
func plain(mode uint32) subdir.Opener {
	return func(dir int, name string) (int, error) {
		fd, err := existing(dir, name)
		if !errors.Is(err, unix.ENOENT) {
			return fd, err
		}
		if err := unix.Mkdirat(dir, name, mode); err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, err
		}
		return existing(dir, name)
	}
}

// Detach takes the mount away from the container. It is found by its ID, at target or wherever the container has moved it, and no
// other mount is touched. A mount that is not there is no error; one in use is ErrBusy, unless lazy: then its users keep the old
// tree until they let go. The mount point stays, so that writes go on being refused.
func (n *Namespace) Detach(ctx context.Context, target string, id uint64, lazy bool) error {
	rel, err := relative(target)
	if err != nil {
		return err
	}
	work := func() error { return remove(rel, id, lazy) }
	if err := n.enter(ctx, false, work, nil, nil); err != nil {
		return fmt.Errorf("detach %s: %w", target, err)
	}
	return nil
}

// A mount whose parents the container renames meanwhile is looked for again, so often and so long.
const (
	tries       = 100
	persistence = time.Second
)

// persist calls look until it is done or fails. A look that took long may have done it: another one follows, to see.
func persist(look func() (done bool, err error)) error {
	began := time.Now()
	for range tries {
		last := time.Since(began) > persistence
		if done, err := look(); done || err != nil {
			return err
		}
		if last {
			break
		}
	}
	return fmt.Errorf("%w: the container moves the mount about", ErrBusy)
}

// moved says that a path that was right a moment ago is not any more.
func moved(err error) bool { return errors.Is(err, ErrUnsafe) || errors.Is(err, ErrNotFound) }

// remove runs in the namespace. It looks again after each try: the container may move directories about meanwhile.
func remove(rel string, id uint64, lazy bool) error {
	return persist(func() (bool, error) {
		where, err := find(rel, id)
		if err != nil || where == "" {
			return true, err
		}
		if err := removeAt(where, id, lazy); !moved(err) {
			return false, err
		}
		return false, nil
	})
}

// removeAt goes through the parent: umount2 takes no descriptor, and the root of a dead file system cannot be entered, that of a
// hung one would hold the thread.
func removeAt(rel string, id uint64, lazy bool) error {
	dir, name, err := parent(rel, existing)
	if err != nil {
		return err
	}
	defer closeFD(dir)
	if err := unix.Fchdir(dir); err != nil {
		return fault("enter parent of target", err)
	}
	if got, mounted, err := identity(dir, name); err != nil || !mounted || got != id {
		return nil // it moved just now: look again
	}
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	err = unix.Unmount(name, flags)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil // the same
	}
	if err != nil {
		return fault("unmount", err)
	}
	return nil
}

// Live says whether the mount is still in the container, at target or wherever the container has moved it, also beneath another one. It
// does not ask the file system: a mount whose server is dead is live.
func (n *Namespace) Live(ctx context.Context, target string, id uint64) (bool, error) {
	rel, err := relative(target)
	if err != nil {
		return false, err
	}
	var where string
	work := func() (err error) {
		where, err = find(rel, id)
		return err
	}
	err = n.enter(ctx, false, work, nil, nil)
	if err != nil && !errors.Is(err, errDeep) {
		return false, fmt.Errorf("look for %s: %w", target, err)
	}
	return where != "" || err != nil, nil
}

// Open returns an O_PATH descriptor of the mount's root, for a probe outside of the namespace, or ErrNotFound. It counts as use of
// the mount until it is closed.
func (n *Namespace) Open(ctx context.Context, target string, id uint64) (*os.File, error) {
	rel, err := relative(target)
	if err != nil {
		return nil, err
	}
	fd := -1
	work := func() (err error) {
		fd, err = reach(rel, id)
		return err
	}
	undo := func() { closeFD(fd) }
	if err := n.enter(ctx, false, work, undo, nil); err != nil {
		return nil, fmt.Errorf("open %s: %w", target, err)
	}
	return os.NewFile(uintptr(fd), strings.Clone(target)), nil
}

// Clone makes a tree of the mount id in the container, at target or wherever the container has moved it: one more mount of the same file
// system, writable unless readOnly whatever the first one is. ErrNotFound when it is not there.
func (n *Namespace) Clone(ctx context.Context, target string, id uint64, readOnly bool) (*Tree, error) {
	rel, err := relative(target)
	if err != nil {
		return nil, err
	}
	fd := -1
	work := func() error {
		root, err := reach(rel, id)
		if err != nil {
			return err
		}
		defer closeFD(root)
		fd, err = openTree(root)
		return err
	}
	undo := func() { closeFD(fd) }
	if err := n.enter(ctx, false, work, undo, nil); err != nil {
		return nil, fmt.Errorf("clone %s: %w", target, err)
	}
	t := &Tree{f: os.NewFile(uintptr(fd), "tree")}
	if !readOnly {
		writable := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &writable); err != nil {
			return nil, errors.Join(fault("set flags of mount", err), t.Close())
		}
	}
	if err := t.restrict(readOnly); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// reach runs in the namespace.
func reach(rel string, id uint64) (int, error) {
	fd := -1
	err := persist(func() (bool, error) {
		where, err := find(rel, id)
		if err == nil && where == "" {
			err = ErrNotFound
		}
		if err != nil {
			return true, err
		}
		if fd, err = reachAt(where, id); moved(err) {
			return false, nil
		}
		return true, err
	})
	return fd, err
}

func reachAt(rel string, id uint64) (int, error) {
	dir, name, err := parent(rel, existing)
	if err != nil {
		return -1, err
	}
	defer closeFD(dir)
	return openRoot(dir, name, id)
}
