package subdir

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestADirectoryIsOpenedBeneathTheOneAboveAndThroughNoLink(t *testing.T) {
	top := t.TempDir()
	require.NoError(t, os.MkdirAll(top+"/in/a", 0o755))
	require.NoError(t, os.Symlink("a", top+"/in/link"))
	require.NoError(t, os.WriteFile(top+"/in/file", nil, 0o600))
	dir, err := unix.Open(top+"/in", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer closeFD(dir)
	for name, want := range map[string]error{
		"a": nil, ".": nil, "..": unix.EXDEV, "/": unix.EXDEV, "link": unix.ELOOP, "file": unix.ENOTDIR, "missing": unix.ENOENT,
	} {
		fd, err := Open(dir, name, unix.O_PATH, Strict)
		require.ErrorIs(t, err, want, name)
		closeFD(fd)
	}
	bare, err := Empty(dir)
	require.NoError(t, err)
	require.False(t, bare)
	a, err := Open(dir, "a", unix.O_PATH, Strict)
	require.NoError(t, err)
	defer closeFD(a)
	bare, err = Empty(a)
	require.NoError(t, err)
	require.True(t, bare)
}

func TestAPathIsWalkedByItsComponentsAndNeverUp(t *testing.T) {
	top := t.TempDir()
	require.NoError(t, os.MkdirAll(top+"/in/a/b", 0o755))
	dir, err := unix.Open(top+"/in", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer closeFD(dir)
	next := func(dir int, name string) (int, error) { return Open(dir, name, unix.O_PATH, Strict) }
	for rel, want := range map[string]struct {
		at  string
		err error
	}{
		"": {}, "a": {}, "a/b": {}, "a/missing/b": {"missing", unix.ENOENT}, "a/..": {"..", unix.EXDEV}, "./a": {".", unix.EXDEV}, "a//b": {"", unix.EXDEV},
	} {
		fd, at, err := Walk(dir, rel, next)
		require.ErrorIs(t, err, want.err, rel)
		require.Equal(t, want.at, at, rel)
		closeFD(fd)
	}
}
