package oss

import (
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount/process"
)

// A wait that sleeps through the mount is woken by its clock, which is half a client's start later.
func TestTheWaitForAMountEndsWithTheMount(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	dir := t.TempDir()
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	client := exec.Command("sleep", "60")
	require.NoError(t, client.Start())
	t.Cleanup(func() { _ = client.Process.Kill(); _ = client.Wait() })
	p, err := process.Of(client.Process.Pid)
	require.NoError(t, err)
	var late []time.Duration
	for range 10 { // on a machine that is busy with other things, not each of them
		made := make(chan time.Time, 1)
		time.AfterFunc(60*time.Millisecond, func() {
			at := time.Now()
			if unix.Mount("tmpfs", dir, "tmpfs", 0, "") == nil {
				made <- at
			}
			close(made)
		})
		fstype, err := mounted(t.Context(), p, dir)
		now := time.Now()
		require.NoError(t, err)
		require.Equal(t, "tmpfs", fstype)
		at, ok := <-made
		require.True(t, ok)
		late = append(late, now.Sub(at))
		require.NoError(t, unix.Unmount(dir, 0))
	}
	slices.Sort(late)
	require.Less(t, late[len(late)/2], 20*time.Millisecond)
}
