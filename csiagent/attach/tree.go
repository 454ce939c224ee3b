//go:build linux

package attach

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/mount/subdir"
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
	next := subdir.Opener(existing)
	if o.MakeSubPath && !o.ReadOnly {
		next = subdir.Maker{Owner: o.Owner, Mode: 0o755, Resolve: subdir.Strict}.Open
	}
	dir, err := walk(int(root.Fd()), o.SubPath, next)
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
