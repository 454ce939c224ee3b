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
