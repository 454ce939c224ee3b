package probe_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

// TestMain makes this test binary a probe process too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "probe" {
		os.Exit(probe.Main(os.Args[2:]))
	}
	if len(os.Args) > 2 && os.Args[1] == "ask" {
		dir, _ := os.OpenFile(os.Args[2], unix.O_PATH|unix.O_DIRECTORY, 0)
		_ = prober().Sync(context.Background(), dir)
		os.Exit(1)
	}
	if len(os.Args) > 2 && os.Args[1] == "serve" {
		os.Exit(serve(os.Args[2]))
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
	require.Less(t, time.Since(start), time.Minute, "it sleeps for ten")
}

// keeper is a directory that is listed when it is let go of.
type keeper struct {
	fs.Inode

	let chan struct{}
}

func (k *keeper) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	<-k.let
	return fs.NewListDirStream(nil), 0
}

// serve serves it until it is killed, and lets go when nobody writes to its input any more. It is a process of its own: whoever waits for
// it cannot be killed, and its end is theirs.
func serve(dir string) int {
	k := &keeper{let: make(chan struct{})}
	if _, err := fs.Mount(dir, k, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true}}); err != nil {
		return 1
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	close(k.let)
	<-time.After(time.Minute)
	return 0
}

func TestAFileSystemThatDoesNotAnswerHoldsOneProcess(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts")
	}
	dir := t.TempDir()
	server := exec.Command("/proc/self/exe", "serve", dir)
	input, err := server.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, server.Start())
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait(); _ = unix.Unmount(dir, unix.MNT_DETACH) })
	require.Eventually(t, func() bool {
		table, err := os.ReadFile("/proc/self/mountinfo")
		return err == nil && strings.Contains(string(table), " "+dir+" ")
	}, 20*time.Second, 5*time.Millisecond)
	p := prober()
	p.Timeout = 2 * time.Second // by then the server has taken the request of the first one, which no signal ends
	root, before := open(t, dir), children(t)
	for range 4 {
		require.ErrorIs(t, p.Read(t.Context(), root, ""), probe.ErrHung)
		require.Equal(t, before+1, children(t))
	}
	require.NoError(t, p.Sync(t.Context(), root), "it asks for something else")
	require.NoError(t, prober().Read(t.Context(), open(t, t.TempDir()), ""), "others are read")
	require.NoError(t, input.Close())
	p.Timeout = probe.DefaultTimeout
	require.Eventually(t, func() bool { return p.Read(t.Context(), root, "") == nil }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, before, children(t))
}

// children are the processes that this one has and has not waited for.
func children(t *testing.T) int {
	t.Helper()
	return len(childrenOf(t, os.Getpid()))
}

func childrenOf(t *testing.T, pid int) (out []string) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	require.NoError(t, err)
	for _, task := range tasks {
		text, _ := os.ReadFile(task) // of one that ended meanwhile there are none
		out = append(out, strings.Fields(string(text))...)
	}
	return out
}

// A process that is killed cannot kill those that it has started.
func TestAProcessEndsWithTheOneThatHasStartedIt(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts")
	}
	fuse, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = fuse.Close() }) // of whom nobody takes a request
	dir := t.TempDir()
	require.NoError(t, unix.Mount("test", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fuse.Fd())))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	asks := exec.Command("/proc/self/exe", "ask", dir)
	require.NoError(t, asks.Start())
	t.Cleanup(func() { _ = asks.Process.Kill(); _ = asks.Wait() })
	var all []string
	require.Eventually(t, func() bool { all = childrenOf(t, asks.Process.Pid); return len(all) == 1 }, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, asks.Process.Kill())
	_ = asks.Wait()
	require.Eventually(t, func() bool {
		_, err := os.Stat("/proc/" + all[0])
		return os.IsNotExist(err)
	}, 10*time.Second, 5*time.Millisecond)
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
