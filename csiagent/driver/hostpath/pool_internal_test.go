package hostpath

import (
	"errors"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

func TestWhoeverFencesAPoolsVolumeIsToldWhatItIsMountedWith(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: makes mounts")
	}
	dir, refusal := t.TempDir()+"/a - b", errors.New("no fence")
	require.NoError(t, os.Mkdir(dir, 0o755))
	for _, o := range []string{"size=4k,nr_inodes=11", "size=8k,nr_inodes=12"} { // one on top of the other: the upper is meant
		require.NoError(t, unix.Mount("a pool's", dir, "tmpfs", 0, o))
		t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	}
	require.NoError(t, os.Mkdir(dir+"/sub", 0o755))
	root, err := os.OpenFile(dir+"/sub", unix.O_PATH, 0)
	require.NoError(t, err)
	defer func() { _ = root.Close() }()
	p := &Pool{fenced: func(m mount.Mount, options string) error {
		require.True(t, m.Enforced)
		require.Contains(t, options, "size=8k,nr_inodes=12")
		return refusal
	}}
	require.ErrorIs(t, p.fence(mount.Mount{Enforced: true}, root), refusal)

	lost, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	require.NoError(t, err)
	gone := os.NewFile(uintptr(lost), "gone")
	defer func() { _ = gone.Close() }()
	require.ErrorIs(t, p.fence(mount.Mount{Enforced: true}, gone), mount.ErrUnavailable, "what cannot be fenced is refused")
}
