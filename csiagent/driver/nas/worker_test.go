package nas

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// TestMain makes this test binary what else is in a network namespace, and processes that mount.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "nas":
			os.Exit(Main())
		case "directories":
			os.Exit(serve(directory))
		case "squashed":
			os.Exit(serve(squashed))
		case "hung":
			os.Exit(serve(silent))
		case "asks":
			_, _, _ = run(context.Background(), []string{"/proc/self/exe", "hung"}, task{Path: os.Args[2]})
			os.Exit(1)
		case "dead":
			os.Exit(1)
		case "fenced":
			os.Exit(fenced())
		}
	}
	os.Exit(m.Run())
}

// directory is a server whose exports are the directories of this machine.
func directory(_ task, path string) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	return fd, failed(stepMount, "", err)
}

// silent is a server that never answers. It leaves the number of the process that asks at the path.
func silent(_ task, path string) (int, error) {
	_ = os.WriteFile(path+".new", []byte(strconv.Itoa(os.Getpid())), 0o600)
	_ = os.Rename(path+".new", path)
	for {
		_ = unix.Pause()
	}
}

// squashed is a server of directories that takes root for nobody.
func squashed(t task, path string) (int, error) {
	fd, err := directory(t, path)
	if err == nil {
		err = errors.Join(unix.Setfsgid(65534), unix.Setfsuid(65534))
	}
	return fd, err
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts")
	}
}

// mounted runs the process for k and returns where the test sees the volume.
func mounted(t *testing.T, k task) (string, error) {
	t.Helper()
	return mountedFrom(t, "directories", k)
}

func mountedFrom(t *testing.T, server string, k task) (string, error) {
	t.Helper()
	root, ans, err := run(t.Context(), []string{"/proc/self/exe", server}, k)
	require.NoError(t, err)
	if ans.Errno != 0 {
		require.Nil(t, root)
		return "", classify(volume{version: "3"}, ans)
	}
	t.Cleanup(func() { require.NoError(t, root.Close()) })
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(root.Fd()))) + "/", nil
}

func TestAMountBeginsAtItsSubPathWhichIsMadeForItsOwner(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	require.NoError(t, os.MkdirAll(top+"/share/old", 0o711))
	k := task{Path: top + "/share", Sub: "old/a/b", Mode: 0o2770, UID: 1000, GID: 1001}
	at, err := mounted(t, k)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(at+"f", nil, 0o600))
	require.FileExists(t, top+"/share/old/a/b/f")
	for dir, want := range map[string][3]uint32{"old": {0o711, 0, 0}, "old/a": {0o2770, 1000, 1001}, "old/a/b": {0o2770, 1000, 1001}} {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(top+"/share/"+dir, &st))
		require.Equal(t, want, [3]uint32{st.Mode & 0o7777, st.Uid, st.Gid}, dir)
	}
	k.Sub, k.SetMode, k.Mode = "old", true, 0o750
	_, err = mounted(t, k)
	require.NoError(t, err)
	st, err := os.Stat(top + "/share/old")
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o750), st.Mode().Perm(), "the volume's own directory gets the stated mode")
	table, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(table), top, "nothing is in this process's mount table")
}

func TestAPathThatTheServerLacksIsMadeUnlessNobodyMayWrite(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	_, err := mounted(t, task{Path: top + "/new/er", Sub: "a", Mode: 0o755, UID: 7, GID: 7, ReadOnly: true})
	require.ErrorIs(t, err, mount.ErrNotFound)
	require.NoDirExists(t, top+"/new")
	_, err = mounted(t, task{Path: top + "/new/er", Sub: "a", Mode: 0o755, UID: 7, GID: 7})
	require.NoError(t, err)
	require.DirExists(t, top+"/new/er/a")
	_, err = mounted(t, task{Path: top + "/new", Sub: "missing", ReadOnly: true})
	require.ErrorIs(t, err, mount.ErrNotFound)
	require.ErrorContains(t, err, "missing")
}

func TestVolumesThatLackTheSameDirectoriesMakeThemTogether(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	for round := range 200 {
		var g errgroup.Group
		for i := range 4 {
			g.Go(func() error {
				root, err := directory(task{}, top)
				if err != nil {
					return err
				}
				defer func() { _ = unix.Close(root) }()
				dir, err := walk(root, fmt.Sprintf("%d/deep/%d", round, i), task{Mode: 0o2770, UID: 1000, GID: 1001})
				if err != nil {
					return err
				}
				return unix.Close(dir)
			})
		}
		require.NoError(t, g.Wait())
		for _, rel := range []string{"", "deep", "deep/0", "deep/1", "deep/2", "deep/3"} {
			var st unix.Stat_t
			require.NoError(t, unix.Lstat(filepath.Join(top, strconv.Itoa(round), rel), &st))
			require.Equal(t, "2770 1000:1001", fmt.Sprintf("%o %d:%d", st.Mode&0o7777, st.Uid, st.Gid), rel)
		}
	}
}

func TestAServerThatSquashesRootIsToldByWhatItRefuses(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(top), 0o755))
	require.NoError(t, os.Mkdir(top+"/all", 0o755))
	require.NoError(t, os.Chmod(top+"/all", 0o777))
	k := task{Path: top, Sub: "all/new", Mode: 0o755, UID: 1000, GID: 1001}
	for range 2 {
		_, err := mountedFrom(t, "squashed", k)
		require.ErrorIs(t, err, mount.ErrDenied)
		require.ErrorContains(t, err, "squashes root")
		require.NoDirExists(t, top+"/all/new", "it would be in the way")
	}
	k.Mode = 0o777
	_, err := mountedFrom(t, "squashed", k)
	require.NoError(t, err, "anybody may write")
	k.Sub = "new"
	_, err = mountedFrom(t, "squashed", k)
	require.ErrorIs(t, err, mount.ErrDenied)
	require.ErrorContains(t, err, "make the directory")
}

func TestNoLinkInASubPathIsFollowed(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	require.NoError(t, os.MkdirAll(top+"/share/real", 0o755))
	require.NoError(t, os.Symlink("/etc", top+"/share/out"))
	require.NoError(t, os.Symlink("real", top+"/share/in"))
	require.NoError(t, os.WriteFile(top+"/share/file", nil, 0o600))
	for sub, want := range map[string]error{
		"out": mount.ErrDenied, "in": mount.ErrDenied, "in/new": mount.ErrDenied, "out/new": mount.ErrDenied, "real/../..": mount.ErrDenied, "file": mount.ErrInvalid, "file/x": mount.ErrInvalid,
	} {
		_, err := mounted(t, task{Path: top + "/share", Sub: sub, Mode: 0o755})
		require.ErrorIs(t, err, want, sub)
		require.NotContains(t, err.Error(), top)
	}
	_, err := os.Stat("/etc/new")
	require.ErrorIs(t, err, os.ErrNotExist)
}

// Whoever swaps a directory for a link while it is walked wins a refusal, or a directory of the volume, and never another one.
func TestADirectoryThatIsSwappedForALinkLeadsNowhereElse(t *testing.T) {
	needRoot(t)
	top, outside := t.TempDir(), t.TempDir()
	share := top + "/share"
	require.NoError(t, os.MkdirAll(share+"/a", 0o755))
	require.NoError(t, os.Symlink(outside, share+"/b"))
	ctx, stop := context.WithCancel(t.Context())
	swapped := make(chan struct{})
	go func() {
		defer close(swapped)
		for ctx.Err() == nil {
			_ = unix.Renameat2(unix.AT_FDCWD, share+"/a", unix.AT_FDCWD, share+"/b", unix.RENAME_EXCHANGE)
		}
	}()
	root, err := directory(task{}, share)
	require.NoError(t, err)
	defer func() { _ = unix.Close(root) }()
	k := task{Mode: 0o755, UID: 1000, GID: 1000}
	for range 10_000 {
		if fd, err := walk(root, "a/new", k); err == nil {
			_ = unix.Unlinkat(fd, "x", 0)
			_ = unix.Close(fd)
		}
		_ = os.Remove(share + "/a/new")
	}
	stop()
	<-swapped
	left, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestAProcessThatHangsIsKilledAtItsDeadlineAndOneThatDiesIsTold(t *testing.T) {
	needRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, _, err := run(ctx, []string{"/proc/self/exe", "hung"}, task{})
	require.ErrorIs(t, err, errHung)
	require.Less(t, time.Since(began), 3*time.Second)
	_, _, err = run(ctx, []string{"/proc/self/exe", "hung"}, task{})
	require.ErrorIs(t, err, errHung, "there is no time left")
	_, _, err = run(t.Context(), []string{"/proc/self/exe", "dead"}, task{})
	require.Error(t, err)
	require.NotErrorIs(t, err, errHung)
}

// A process that is killed cannot kill those that it has started.
func TestAProcessEndsWithTheOneThatHasStartedIt(t *testing.T) {
	needRoot(t)
	at := t.TempDir() + "/pid"
	asks := exec.Command("/proc/self/exe", "asks", at)
	require.NoError(t, asks.Start())
	t.Cleanup(func() { _ = asks.Process.Kill(); _ = asks.Wait() })
	var pid []byte
	require.Eventually(t, func() (there bool) {
		var err error
		pid, err = os.ReadFile(at)
		return err == nil
	}, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, asks.Process.Kill())
	_ = asks.Wait()
	require.Eventually(t, func() bool { return !strings.Contains(commandOf(string(pid)), "hung") }, 10*time.Second, 5*time.Millisecond)
}

// commandOf is a process's command line, empty once it has ended.
func commandOf(pid string) string {
	line, _ := os.ReadFile("/proc/" + pid + "/cmdline")
	return string(line)
}

func TestAKernelWithoutNFSIsToldByItsModule(t *testing.T) {
	needRoot(t)
	root, ans, err := run(t.Context(), []string{"/proc/self/exe", "nas"}, task{Server: "127.0.0.1", Path: "/", Options: [][2]string{{"vers", "3"}}})
	require.NoError(t, err)
	require.Nil(t, root)
	if ans.Errno != unix.ENODEV {
		t.Skip("this kernel has NFS: ", ans)
	}
	err = classify(volume{version: "3"}, ans)
	require.ErrorIs(t, err, mount.ErrUnavailable)
	require.ErrorContains(t, err, "nfsv3")
}
