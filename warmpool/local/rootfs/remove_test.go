package rootfs

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestATreeIsRemovedHoweverDeepAndWhateverItsNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a/.removing-1/b/c"), 0o755))
	require.NoError(t, os.Mkdir(filepath.Join(dir, ".removing-1"), 0o000))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a/.removing-1/file"), nil, 0o000))
	outside := filepath.Join(t.TempDir(), "kept")
	require.NoError(t, os.Mkdir(outside, 0o755))
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "a/link")))
	// Deeper than a path may be long, and than there are descriptors.
	at, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	for i := range 3000 {
		name := "deep" + strconv.Itoa(i)
		require.NoError(t, unix.Mkdirat(at, name, 0o755))
		next, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Close(at))
		at = next
	}
	require.NoError(t, unix.Close(at))
	require.NoError(t, Remove(dir))
	require.NoFileExists(t, dir)
	require.DirExists(t, outside)
	require.NoError(t, Remove(dir), "again is fine")
}

func TestAMountInTheTreeIsLeftAlone(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts a tmpfs")
	}
	for _, where := range []string{".", "a", "a/b/c"} {
		dir := filepath.Join(t.TempDir(), "tree")
		at := filepath.Join(dir, where)
		require.NoError(t, os.MkdirAll(filepath.Join(at, "x"), 0o755))
		require.NoError(t, unix.Mount("tmpfs", at, "tmpfs", 0, "size=1m"))
		require.NoError(t, os.WriteFile(filepath.Join(at, "data"), []byte("precious"), 0o600))
		err := Remove(dir)
		require.Error(t, err, where)
		text, rerr := os.ReadFile(filepath.Join(at, "data"))
		if rerr != nil { // its directory may have been moved to the top of the tree
			require.Equal(t, "a/b/c", where)
		} else {
			require.Equal(t, "precious", string(text))
		}
		var mounts []byte
		mounts, rerr = os.ReadFile("/proc/self/mountinfo")
		require.NoError(t, rerr)
		require.Contains(t, string(mounts), dir)
		for unix.Unmount(at, unix.MNT_DETACH) != nil {
			matches, _ := filepath.Glob(dir + "/.removing-*/*")
			deeper, _ := filepath.Glob(dir + "/.removing-*")
			for _, m := range append(matches, deeper...) {
				if text, err := os.ReadFile(filepath.Join(m, "data")); err == nil {
					require.Equal(t, "precious", string(text))
					at = m
				}
			}
		}
		require.NoError(t, Remove(dir))
	}
}
