package probe

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	actRead = "read"
	actSync = "sync"
	actSeal = "seal"

	// inherited is the descriptor on which Main finds its directory.
	inherited = 3

	exitUsage = 253
	exitType  = 254
)

// Main is the probe process: args are what follows the Prober's Command, the directory is descriptor 3. It returns the exit
// code: 0, an errno, or one of its own. The Prober holds the other end of its input: when that is closed the process ends at once.
func Main(args []string) int {
	dir := os.NewFile(inherited, "probed")
	if dir == nil || len(args) == 0 {
		return exitUsage
	}
	var act func() error
	switch {
	case args[0] == actRead && len(args) == 2:
		act = func() error { return Direct(dir, args[1]) }
	case args[0] == actSync && len(args) == 1:
		act = func() error { return flush(dir) }
	case args[0] == actSeal && len(args) == 1:
		act = func() error { return seal(dir) }
	default:
		return exitUsage
	}
	go func() { // ends with the process
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(exitUsage)
	}()
	return code(act())
}

// Direct is what a probe process does, in this one: for file systems with nobody behind them who could hang.
func Direct(dir *os.File, fstype string) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	if want, known := magics[family(fstype)]; known && int64(st.Type) != want { //nolint:unconvert // its width differs by architecture
		return ErrType
	}
	// The directory may be an O_PATH descriptor, which cannot be read: open it again through itself.
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	batch := make([]byte, 4096)
	if _, err := unix.Getdents(fd, batch); err != nil {
		return fmt.Errorf("readdir: %w", err)
	}
	return nil
}

func flush(dir *os.File) error {
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Syncfs(fd)
}

// seal makes a file system read-only wherever it is mounted. dir must be the root of a mount.
func seal(dir *os.File) error {
	fs, err := unix.Fspick(int(dir.Fd()), "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("fspick: %w", err)
	}
	defer func() { _ = unix.Close(fs) }()
	if err := unix.FsconfigSetFlag(fs, "ro"); err != nil {
		return fmt.Errorf("fsconfig: %w", err)
	}
	return unix.FsconfigReconfigure(fs)
}

func code(err error) int {
	var errno unix.Errno
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrType):
		return exitType
	case errors.As(err, &errno) && errno > 0 && errno < exitUsage:
		return int(errno)
	}
	return int(unix.EIO)
}

// family is the name under which a file system type's magic number is known: "fuse.s3fs" is "fuse", "nfs4" is "nfs".
func family(fstype string) string {
	name, _, _ := strings.Cut(fstype, ".")
	if name == "nfs4" {
		return "nfs"
	}
	return name
}

var magics = map[string]int64{
	"fuse":  unix.FUSE_SUPER_MAGIC,
	"nfs":   unix.NFS_SUPER_MAGIC,
	"tmpfs": unix.TMPFS_MAGIC,
}
