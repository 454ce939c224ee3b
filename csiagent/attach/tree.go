//go:build linux

package attach

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// CloneOptions say which part of a volume is taken, and how it may be used.
type CloneOptions struct {
	// SubPath is the directory of the volume to take; empty means all of it.
	SubPath string
	// MakeSubPath makes the directories of SubPath that are missing, mode 0755, and gives them to Owner.
	MakeSubPath bool
	// Owner owns the directories that are made; those that exist are left as they are.
	Owner mount.Owner
	// ReadOnly makes a mount that refuses writes.
	ReadOnly bool
}

// Tree is a mount that is nowhere yet. Closing it before it was attached dissolves it.
type Tree struct {
	f  *os.File
	id uint64
}

// Clone makes a tree of the volume that root is the root directory of: a mount in this process's mount namespace, or a detached
// one, in whose place root then may have a clone. Nobody else is to use or close root meanwhile. ErrNoClone says that there is no
// more to be had of root. Set-user-ID programs and device nodes never work in it, nothing propagates to
// or from it, and mounts below root are not part of it. The volume answers for the time it takes: probe it first.
func Clone(root *os.File, o CloneOptions) (*Tree, error) {
	defer runtime.KeepAlive(root)
	var mk maker
	if o.MakeSubPath && !o.ReadOnly {
		mk = func(dir int, name string) (int, error) { return makeOwned(dir, name, o.Owner) }
	}
	dir, err := walk(int(root.Fd()), o.SubPath, mk)
	if err != nil {
		return nil, fmt.Errorf("subPath: %w", err)
	}
	defer closeFD(dir)
	fd, err := clone(int(root.Fd()), dir)
	if err != nil {
		return nil, fault("clone volume", err)
	}
	t := &Tree{f: os.NewFile(uintptr(fd), "tree")}
	if err := t.restrict(o.ReadOnly); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// restrict sets what must hold before anybody can see the mount.
func (t *Tree) restrict(readOnly bool) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	if readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	fd := int(t.f.Fd())
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fault("set flags of mount", err)
	}
	id, _, err := identity(fd, "")
	t.id = id
	return err
}

// Root is the root directory of the tree, for Clone. It is the tree's own: whoever closes it closes the tree.
func (t *Tree) Root() *os.File { return t.f }

// ID is the ID of the mount, which it keeps when it is attached.
func (t *Tree) ID() uint64 { return t.id }

// Close lets go of the tree. An attached mount stays, but counts as in use until its tree is closed.
func (t *Tree) Close() error { return t.f.Close() }

// makeOwned makes the directory name in dir for owner. Its first mode, 0, tells the directory that was made from one that
// somebody put in its place before it was opened: only an empty directory that nobody may enter is given away. Another one is left as
// it is, as if it had been there before: it is such a one, or the file system has one mode for everything in it, as FUSE clients are told by umask.
func makeOwned(dir int, name string, owner mount.Owner) (int, error) {
	if err := unix.Mkdirat(dir, name, 0); err != nil {
		return -1, err
	}
	fd, err := open(dir, name, unix.O_RDONLY, strict)
	if err != nil {
		return -1, err
	}
	if err := giveAway(fd, owner); err != nil {
		closeFD(fd)
		return -1, err
	}
	return fd, nil
}

func giveAway(fd int, owner mount.Owner) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Uid == owner.UID && st.Gid == owner.GID && st.Mode&0o700 == 0o700 {
		return nil // the file system says that everything in it is the owner's
	}
	const permissions = 0o777 // a directory's set-group-ID bit comes from the one above it
	if st.Mode&permissions != 0 {
		return nil
	}
	if bare, err := empty(fd); err != nil || !bare {
		return err
	}
	// While it is still ours: to change the mode of another one's takes a capability that the agent in a pod does not have.
	if err := unix.Fchmod(fd, 0o755); err != nil {
		return fmt.Errorf("open directory to its owner: %w", err)
	}
	if err := unix.Fchown(fd, int(owner.UID), int(owner.GID)); err != nil {
		return fmt.Errorf("give directory to %d:%d: %w", owner.UID, owner.GID, err)
	}
	return nil
}
