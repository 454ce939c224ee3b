package account

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ErrPath is wrapped by the errors of a path that can mean nothing.
var ErrPath = errors.New("invalid path")

// Resolve makes a path of a request absolute: "" is the default directory, "~" and relative paths lie in the
// user's home. It does not look at the file system.
func (d *Directory) Resolve(path string, a Account) (string, error) {
	if path == "" && d.DefaultDir != nil {
		path = d.DefaultDir()
	}
	switch {
	case strings.ContainsRune(path, 0):
		return "", fmt.Errorf("%w: it holds a NUL byte", ErrPath)
	case path == "~" || strings.HasPrefix(path, "~/"):
		path = filepath.Join(a.Home, path[1:])
	case strings.HasPrefix(path, "~"):
		return "", fmt.Errorf("%w '%s': only '~' and '~/...' are expanded, not another user's home", ErrPath, path)
	}
	if filepath.IsAbs(path) {
		return filepath.Clean(path), nil
	}
	return filepath.Join("/", a.Home, path), nil
}

// MakeDirs makes dir and what it lacks above it, 0755 and owned by the account. What exists is left as it is.
// A file in the way is a *fs.PathError that wraps ENOTDIR.
func (a Account) MakeDirs(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &os.PathError{Op: "mkdir", Path: dir, Err: errNotDir}
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := a.MakeDirs(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		if info, statErr := os.Stat(dir); statErr != nil || !info.IsDir() {
			return err
		}
		// Another request made it a moment ago and will own it, too.
	}
	return a.own(dir)
}

// Own gives an open file to the account. On file systems that know no owners it stays as it is.
func (a Account) Own(f *os.File) error { return ignoreFixedOwner(f.Chown(a.UID, a.GID)) }

func (a Account) own(path string) error { return ignoreFixedOwner(os.Lchown(path, a.UID, a.GID)) }
