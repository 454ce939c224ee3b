package probe_test

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

// TestMain makes this test binary a probe process too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "probe" {
		os.Exit(probe.Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func prober() *probe.Prober { return &probe.Prober{Command: []string{"/proc/self/exe", "probe"}} }

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestAReadableDirectoryPassesInBothWays(t *testing.T) {
	dir := open(t, t.TempDir())
	require.NoError(t, probe.Direct(dir, ""))
	require.NoError(t, prober().Read(t.Context(), dir, ""))
	require.NoError(t, prober().Sync(t.Context(), dir))
}

func TestAFileSystemIsSealedOnceNobodyWritesToIt(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	top := t.TempDir()
	require.NoError(t, unix.Mount("test", top, "tmpfs", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(top, unix.MNT_DETACH)) })
	dir := open(t, top)
	f, err := os.Create(top + "/f")
	require.NoError(t, err)
	require.ErrorIs(t, prober().Seal(t.Context(), dir), unix.EBUSY)
	require.NoError(t, f.Close())
	r, err := os.Open(top + "/f")
	require.NoError(t, err)
	defer func() { _ = r.Close() }()
	require.NoError(t, prober().Seal(t.Context(), dir), "a reader is no writer")
	require.ErrorIs(t, os.WriteFile(top+"/f", nil, 0o600), unix.EROFS)
}

func TestAnotherFileSystemThanExpectedIsRefused(t *testing.T) {
	dir := open(t, "/proc")
	for _, fstype := range []string{"tmpfs", "fuse.s3fs", "nfs4"} {
		require.ErrorIs(t, probe.Direct(dir, fstype), probe.ErrType, fstype)
		require.ErrorIs(t, prober().Read(t.Context(), dir, fstype), probe.ErrType, fstype)
	}
}

func TestTheKindOfFailureComesBackFromTheProcess(t *testing.T) {
	f, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	require.ErrorIs(t, prober().Read(t.Context(), f, ""), unix.ENOTDIR)
}

func TestAProcessThatDoesNotAnswerIsKilledInTime(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	require.NoError(t, err)
	p := &probe.Prober{Command: []string{"/bin/sh", "-c", "exec " + sleep + " 600", "sh"}, Timeout: 50 * time.Millisecond}
	start := time.Now()
	require.ErrorIs(t, p.Read(t.Context(), open(t, t.TempDir()), ""), probe.ErrHung)
	require.Less(t, time.Since(start), 2*time.Second)
	require.Zero(t, p.Stuck(), "a process that can be killed is not stuck")
}

func TestAnEndedContextStartsNoProcess(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := &probe.Prober{Command: []string{"/nonexistent"}}
	require.ErrorIs(t, p.Read(ctx, open(t, t.TempDir()), ""), probe.ErrHung)
}

func TestACommandThatIsNoProbeIsNotTakenForAGoodRead(t *testing.T) {
	p := &probe.Prober{Command: []string{"/bin/sh", "-c", "exit 253"}}
	require.ErrorContains(t, p.Read(t.Context(), open(t, t.TempDir()), ""), "protocol")
	require.Error(t, (&probe.Prober{}).Read(t.Context(), open(t, t.TempDir()), ""))
	require.Equal(t, 253, probe.Main([]string{"write"}))
}

func TestOnlyTheMachinesOwnFileSystemsAreLocal(t *testing.T) {
	remote, err := probe.Remote(open(t, "/dev/shm"))
	require.NoError(t, err)
	require.False(t, remote, "tmpfs")
	remote, err = probe.Remote(open(t, "/proc"))
	require.NoError(t, err)
	require.True(t, remote, "what is not in the list is probed in a process")
}
