// Package tmpfs makes volumes in memory: sized, empty, and gone when the last sandbox that has one is. A volume never appears
// in any mount table before it is attached. The package does not know where it will be attached.
package tmpfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// Attributes of a tmpfs volume.
const (
	AttrSize   = "size"   // a Kubernetes quantity, required
	AttrInodes = "inodes" // how many files and directories it may hold, optional
)

const (
	minSize   = 4096 // a page; less is rounded up by the kernel, and 0 would mean no limit
	minInodes = 2
	// bytesPerInode sizes inodes when nobody does, within minDefault and maxDefault: without a limit of their own, a tenant can
	// fill the kernel's memory with empty files.
	bytesPerInode          = 16 << 10
	minDefault, maxDefault = 1 << 10, 1 << 20
)

// ModeShared is for volumes that containers of different users share, as Kubernetes' emptyDir is.
const ModeShared = "0777"

// Driver makes tmpfs volumes. The zero value is ready.
type Driver struct {
	// MaxSize is the largest volume, in bytes; zero means no limit but the machine's.
	MaxSize int64
	// Mode is the root directory's permissions, in octal; 0755 when empty.
	Mode string
}

// Check refuses sizes, attributes and options that a tmpfs cannot have.
func (d *Driver) Check(m mount.Mount) error {
	_, err := d.parse(m)
	return err
}

// Mount makes a file system that is attached nowhere; nothing happens in dir.
func (d *Driver) Mount(_ context.Context, m mount.Mount, _ string) (mount.Source, error) {
	v, err := d.parse(m)
	if err != nil {
		return mount.Source{}, err
	}
	root, err := v.make()
	if err != nil {
		return mount.Source{}, fmt.Errorf("make tmpfs: %w", err)
	}
	return mount.Source{Root: root, SubPath: m.SubPath, FSType: "tmpfs"}, nil
}

// Unmount has nothing to do: the kernel frees the memory with the last reference.
func (d *Driver) Unmount(context.Context, string, mount.Process) error { return nil }

type volume struct {
	size, inodes int64
	owner        mount.Owner
	mode         string
	readOnly     bool
	attrs        int // of the mount, not the file system
}

func (d *Driver) parse(m mount.Mount) (volume, error) {
	v := volume{owner: m.Owner, mode: cmp.Or(d.Mode, "0755"), attrs: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	for _, k := range slices.Sorted(maps.Keys(m.Attributes)) {
		if k != AttrSize && k != AttrInodes {
			return v, fmt.Errorf("%w: a tmpfs has no attribute %q; known are size and inodes", mount.ErrInvalid, k)
		}
	}
	if err := v.options(m.Options); err != nil {
		return v, err
	}
	v.readOnly = v.readOnly || m.ReadOnly || m.AccessMode == mount.ReadOnlyMany
	var err error
	if v.size, err = d.size(m.Attributes[AttrSize]); err != nil {
		return v, err
	}
	v.inodes, err = inodes(m.Attributes[AttrInodes], v.size)
	return v, err
}

func (v *volume) options(options []string) error {
	for _, o := range options {
		switch o {
		case "ro":
			v.readOnly = true
		case "noexec":
			v.attrs |= unix.MOUNT_ATTR_NOEXEC
		case "noatime":
			v.attrs |= unix.MOUNT_ATTR_NOATIME
		case "nosymfollow":
			v.attrs |= unix.MOUNT_ATTR_NOSYMFOLLOW
		case "rw", "nosuid", "nodev", "relatime":
		default:
			return fmt.Errorf("%w: a tmpfs does not take the mount option %q", mount.ErrInvalid, o)
		}
	}
	return nil
}

func (d *Driver) size(text string) (int64, error) {
	if text == "" {
		return 0, fmt.Errorf("%w: the attribute size is required, such as 64Mi", mount.ErrInvalid)
	}
	n, err := mount.Quantity(text)
	switch {
	case errors.Is(err, mount.ErrQuantity):
		return 0, fmt.Errorf("%w: the attribute size must be a quantity such as 64Mi", mount.ErrInvalid)
	case err != nil || n < minSize:
		return 0, fmt.Errorf("%w: the attribute size must be a whole number of bytes, at least 4Ki", mount.ErrInvalid)
	case d.MaxSize > 0 && n > d.MaxSize:
		return 0, fmt.Errorf("%w: the attribute size may be at most %d bytes here", mount.ErrInvalid, d.MaxSize)
	}
	return n, nil
}

func inodes(text string, size int64) (int64, error) {
	if text == "" {
		return min(max(size/bytesPerInode, minDefault), maxDefault), nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < minInodes {
		return 0, fmt.Errorf("%w: the attribute inodes must be a whole number, at least %d", mount.ErrInvalid, minInodes)
	}
	return n, nil
}

func (v volume) make() (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen: %w", err)
	}
	defer func() { _ = unix.Close(fs) }()
	settings := [][2]string{
		{"source", "tmpfs"},
		{"size", strconv.FormatInt(v.size, 10)},
		{"nr_inodes", strconv.FormatInt(v.inodes, 10)},
		{"mode", v.mode},
		{"uid", strconv.FormatUint(uint64(v.owner.UID), 10)},
		{"gid", strconv.FormatUint(uint64(v.owner.GID), 10)},
	}
	for _, s := range settings {
		if err := unix.FsconfigSetString(fs, s[0], s[1]); err != nil {
			return nil, fmt.Errorf("set %s: %w", s[0], err)
		}
	}
	if v.readOnly {
		if err := unix.FsconfigSetFlag(fs, "ro"); err != nil {
			return nil, fmt.Errorf("set ro: %w", err)
		}
		v.attrs |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, v.attrs)
	if err != nil {
		return nil, fmt.Errorf("fsmount: %w", err)
	}
	return os.NewFile(uintptr(fd), "tmpfs"), nil
}
