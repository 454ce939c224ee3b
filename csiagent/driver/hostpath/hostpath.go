// Package hostpath offers directories of this machine as volumes, below prefixes that the operator allows and nowhere else. A
// path is resolved beneath its prefix by the kernel, following no symbolic link, so that what lies in a prefix cannot lead out
// of it. Callers never read a host path in an error.
package hostpath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/mount/subdir"
)

// Attributes of a hostpath volume.
const (
	AttrPath = "path" // absolute, below an allowed prefix
	AttrType = "type" // "", Directory or DirectoryOrCreate, as in a PersistentVolume's hostPath
)

// Config says what of this machine may be mounted.
type Config struct {
	// Prefixes are the directories below which paths are allowed, themselves included. Each is opened once, when the driver is
	// made: whoever later replaces it or a directory above it changes nothing. None allows nothing.
	Prefixes []string
	// Timeout bounds the look at one directory, which may be of a server that does not answer; 3 s when zero.
	Timeout time.Duration
}

// Driver offers host directories.
type Driver struct {
	prefixes []prefix
	timeout  time.Duration
	patience mount.Patience // by the path
}

type prefix struct {
	path string // as the operator wrote it, cleaned
	dir  *os.File
}

// New opens the prefixes.
func New(c Config) (*Driver, error) {
	d := &Driver{timeout: c.Timeout}
	if d.timeout <= 0 {
		d.timeout = 3 * time.Second
	}
	for _, p := range c.Prefixes {
		dir, err := openPrefix(p)
		if err != nil {
			return nil, errors.Join(err, d.Close())
		}
		d.prefixes = append(d.prefixes, prefix{path.Clean(p), dir})
	}
	// The longest match decides, so that a prefix inside another one is taken for itself.
	slices.SortFunc(d.prefixes, func(a, b prefix) int { return len(b.path) - len(a.path) })
	return d, nil
}

// Close closes the prefixes. Volumes that were made stay.
func (d *Driver) Close() error {
	var errs []error
	for _, p := range d.prefixes {
		errs = append(errs, p.dir.Close())
	}
	d.prefixes = nil
	return errors.Join(errs...)
}

func openPrefix(p string) (*os.File, error) {
	switch clean := path.Clean(p); {
	case !path.IsAbs(p):
		return nil, fmt.Errorf("allowed host path %q: it must be absolute", p)
	case clean == "/" || within(clean, "/proc") || within(clean, "/sys") || within(clean, "/dev"):
		return nil, fmt.Errorf("allowed host path %q: the root, /proc, /sys and /dev cannot be allowed", p)
	}
	dir, err := os.OpenFile(p, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("allowed host path: %w", err)
	}
	return dir, nil
}

// Check refuses what the driver does not know and what lies in no allowed prefix.
func (d *Driver) Check(m mount.Mount) error {
	if _, err := check(m); err != nil {
		return err
	}
	_, _, err := d.find(m.Attributes[AttrPath])
	return err
}

// Mount opens the directory; nothing happens in dir.
func (d *Driver) Mount(ctx context.Context, m mount.Mount, _ string) (mount.Source, error) {
	create, err := check(m)
	if err != nil {
		return mount.Source{}, err
	}
	top, rel, err := d.find(m.Attributes[AttrPath])
	if err != nil {
		return mount.Source{}, err
	}
	src, err := mount.Wait(ctx, &d.patience, path.Clean(m.Attributes[AttrPath]), d.timeout, func() (mount.Source, error) {
		return source(top, rel, create, m)
	}, func(s mount.Source) { _ = s.Root.Close() })
	if errors.Is(err, mount.ErrHeld) {
		return mount.Source{}, fmt.Errorf("%w: the storage of this host path does not answer", mount.ErrUnavailable)
	}
	return src, err
}

// source opens the directory rel of top for m. A server may answer for it.
func source(top *os.File, rel string, create bool, m mount.Mount) (mount.Source, error) {
	var fd int
	var err error
	if create {
		fd, err = makeAll(top, rel, m.Owner)
	} else {
		fd, err = beneath(top, rel)
	}
	if err != nil {
		return mount.Source{}, explain(err)
	}
	root := os.NewFile(uintptr(fd), "hostpath")
	fstype, remote, err := kind(fd)
	if err != nil {
		_ = root.Close()
		return mount.Source{}, err
	}
	return mount.Source{Root: root, SubPath: m.SubPath, FSType: fstype, Remote: remote}, nil
}

// Unmount has nothing to do: a directory needs nobody to serve it.
func (d *Driver) Unmount(context.Context, string, mount.Process) error { return nil }

// check says whether a missing directory may be made.
func check(m mount.Mount) (create bool, err error) {
	for _, k := range slices.Sorted(maps.Keys(m.Attributes)) {
		if k != AttrPath && k != AttrType {
			return false, fmt.Errorf("%w: a host path has no attribute %q; known are path and type", mount.ErrInvalid, k)
		}
	}
	readOnly := m.ReadOnly || m.AccessMode == mount.ReadOnlyMany
	for _, o := range m.Options {
		switch o {
		case "ro":
			readOnly = true
		case "rw", "nosuid", "nodev", "relatime":
		default:
			return false, fmt.Errorf("%w: a host path does not take the mount option %q", mount.ErrInvalid, o)
		}
	}
	switch m.Attributes[AttrType] {
	case "", "Directory":
		return false, nil
	case "DirectoryOrCreate":
		return !readOnly, nil
	}
	return false, fmt.Errorf("%w: the type of a host path must be Directory or DirectoryOrCreate", mount.ErrInvalid)
}

// find returns the prefix that p lies in and the rest of p.
func (d *Driver) find(p string) (*os.File, string, error) {
	clean, err := clean(p)
	if err != nil {
		return nil, "", err
	}
	for _, x := range d.prefixes {
		if within(clean, x.path) {
			return x.dir, "." + clean[len(x.path):], nil
		}
	}
	return nil, "", errNotAllowed
}

var errNotAllowed = fmt.Errorf("%w: this host path is not among those that the operator allows", mount.ErrDenied)

func clean(p string) (string, error) {
	switch {
	case !path.IsAbs(p):
		return "", fmt.Errorf("%w: the attribute path must be an absolute path", mount.ErrInvalid)
	case strings.ContainsRune(p, 0) || slices.Contains(strings.Split(p, "/"), ".."):
		return "", fmt.Errorf("%w: the attribute path must not climb with a .. component", mount.ErrInvalid)
	}
	return path.Clean(p), nil
}

// Allowed are the prefixes of Config for a process that is not on the machine which has them: it can refuse, and not mount.
type Allowed []string

// Check refuses what a Driver with these prefixes refuses by its Check.
func (a Allowed) Check(m mount.Mount) error {
	if _, err := check(m); err != nil {
		return err
	}
	p, err := clean(m.Attributes[AttrPath])
	if err != nil {
		return err
	}
	for _, prefix := range a {
		if within(p, path.Clean(prefix)) {
			return nil
		}
	}
	return errNotAllowed
}

// within says whether the clean path p is dir or lies below it.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

func beneath(top *os.File, rel string) (int, error) {
	return subdir.Open(int(top.Fd()), rel, unix.O_PATH, resolve)
}

// makeAll is beneath, one component after the other. Those that are missing are made for owner.
func makeAll(top *os.File, rel string, owner mount.Owner) (int, error) {
	mk := subdir.Maker{Owner: owner, Mode: 0o755, Resolve: resolve}
	fd, _, err := subdir.Walk(int(top.Fd()), strings.TrimPrefix(strings.TrimPrefix(rel, "."), "/"), mk.Open)
	return fd, err
}

// explain says what happened without the path.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: this host path does not exist", mount.ErrNotFound)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%w: this host path is not a directory", mount.ErrInvalid)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		return fmt.Errorf("%w: this host path leads through a symbolic link", mount.ErrDenied)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: this host path cannot be opened", mount.ErrDenied)
	}
	return fmt.Errorf("open host path: %w", err)
}

// disks are the file systems that the kernel serves from this machine's own memory and disks; any other may hang.
var disks = map[int64]bool{
	unix.BTRFS_SUPER_MAGIC: true, unix.EXT4_SUPER_MAGIC: true, unix.F2FS_SUPER_MAGIC: true, unix.OVERLAYFS_SUPER_MAGIC: true,
	unix.RAMFS_MAGIC: true, unix.SQUASHFS_MAGIC: true, unix.TMPFS_MAGIC: true, unix.XFS_SUPER_MAGIC: true, 0x2fc12fc1: true, // zfs
}

// nfs is the type of file system that callers want to be told of.
const nfs = "nfs"

// kind says whether a file system is NFS, and whether it may hang.
func kind(fd int) (fstype string, remote bool, err error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return "", true, fmt.Errorf("statfs host path: %w", err)
	}
	if st.Type == unix.NFS_SUPER_MAGIC {
		fstype = nfs
	}
	return fstype, !disks[int64(st.Type)], nil //nolint:unconvert // its width differs by architecture
}
