package rootfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Remove removes a tree that its tenant could shape as he liked. It never enters a mount, which could be somebody's data, never
// follows a link, and needs the same few descriptors however deep the tree is: what lies deep is first moved to the top.
func Remove(dir string) error {
	parent, err := os.Open(filepath.Dir(dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove tree: %w", err)
	}
	defer func() { _ = parent.Close() }()
	name := filepath.Base(dir)
	top, err := enter(parent, name)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EXDEV):
		return fmt.Errorf("remove tree: something is mounted at %s; it is left alone", dir)
	case err != nil:
		return fmt.Errorf("remove tree %s: %w", dir, err)
	}
	err = flatten(top)
	_ = top.Close()
	if err != nil {
		return fmt.Errorf("remove tree %s: %w", dir, err)
	}
	if err := unix.Unlinkat(int(parent.Fd()), name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove tree %s: %w", dir, err)
	}
	return nil
}

func enter(parent *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat2(int(parent.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// flatten empties top. Directories that are not empty give their own directories to top before they go.
func flatten(top *os.File) error {
	for moved := 0; ; {
		names, err := list(top)
		if err != nil || len(names) == 0 {
			return err
		}
		for _, name := range names {
			if gone(top, name) {
				continue
			}
			if err := lift(top, name, &moved); err != nil {
				return err
			}
		}
	}
}

// lift empties top/name by removing what it can and moving the rest to top.
func lift(top *os.File, name string, moved *int) error {
	sub, err := enter(top, name)
	if errors.Is(err, unix.EXDEV) {
		return fmt.Errorf("something is mounted at %q in it; it is left alone", name)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	defer func() { _ = sub.Close() }()
	for {
		names, err := list(sub)
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		if len(names) == 0 {
			return nil // its own removal is the next round's
		}
		for _, child := range names {
			if gone(sub, child) {
				continue
			}
			// Something of that name may be in top already.
			*moved++
			to := ".removing-" + strconv.Itoa(*moved)
			err := unix.Renameat2(int(sub.Fd()), child, int(top.Fd()), to, unix.RENAME_NOREPLACE)
			if err != nil && !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("%q: %w", child, err)
			}
		}
	}
}

// gone removes an entry that is no directory, or an empty one.
func gone(dir *os.File, name string) bool {
	fd := int(dir.Fd())
	err := unix.Unlinkat(fd, name, 0)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
		err = unix.Unlinkat(fd, name, unix.AT_REMOVEDIR)
	}
	return err == nil || errors.Is(err, unix.ENOENT)
}

// list reads a batch of names from the beginning.
func list(dir *os.File) ([]string, error) {
	if _, err := dir.Seek(0, 0); err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(4096)
	if len(names) > 0 || errors.Is(err, os.ErrNotExist) {
		return names, nil
	}
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	return nil, err
}
