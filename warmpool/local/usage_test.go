package local

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestTheDiskUsedIsWhatTheSandboxHasWritten(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts a tmpfs")
	}
	h := &host{layout: layout(t.TempDir())}
	c := newCell(h, "x")
	for _, path := range []string{"root/home/file", "upper/usr/file", "root/mount/file"} {
		file := h.layout.part(c.id, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		if path == "root/mount/file" { // somebody's data
			require.NoError(t, unix.Mount("tmpfs", filepath.Dir(file), "tmpfs", 0, "size=8m"))
			defer func() { require.NoError(t, unix.Unmount(filepath.Dir(file), unix.MNT_DETACH)) }()
			require.NoError(t, os.WriteFile(file, make([]byte, 4<<20), 0o600))
			continue
		}
		require.NoError(t, os.WriteFile(file, make([]byte, 1<<20), 0o600))
	}
	used := c.diskUsed()
	require.GreaterOrEqual(t, used, int64(2<<20))
	require.Less(t, used, int64(3<<20))
}
