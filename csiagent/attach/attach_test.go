//go:build linux

package attach_test

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

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// volume is a detached tmpfs, as a driver would make one.
func volume(t testing.TB) *os.File {
	t.Helper()
	needsRoot(t)
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(fs)) }()
	require.NoError(t, unix.FsconfigSetString(fs, "mode", "0777"))
	require.NoError(t, unix.FsconfigCreate(fs))
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "volume")
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f
}

func inVolume(v *os.File, path string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", v.Fd(), path)
}

// put attaches v as o says, and closes the tree.
func put(n *attach.Namespace, v *os.File, target string, o attach.CloneOptions) (uint64, error) {
	tree, err := attach.Clone(v, o)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tree.Close() }()
	return n.Attach(context.Background(), tree, target, attach.AttachOptions{})
}

func mustPut(t *testing.T, n *attach.Namespace, v *os.File, target string, o attach.CloneOptions) uint64 {
	t.Helper()
	id, err := put(n, v, target, o)
	require.NoError(t, err)
	require.NotZero(t, id)
	return id
}

func (b *box) mountinfo(target string) string {
	b.t.Helper()
	for line := range strings.Lines(b.must("read", "/proc/self/mountinfo")) {
		if strings.Fields(line)[4] == target {
			return line
		}
	}
	return ""
}

func TestAVolumeIsSeenByTheRunningProcess(t *testing.T) {
	b, v := newBox(t), volume(t)
	n := b.namespace(attach.NewThreads(2))
	require.NoError(t, os.WriteFile(inVolume(v, "hello"), []byte("from outside"), 0o644))
	id := mustPut(t, n, v, "/mnt/deep/data", attach.CloneOptions{})
	require.Equal(t, "from outside", b.must("read", "/mnt/deep/data/hello"))
	require.Empty(t, b.tell(order{Do: "write", Path: "/mnt/deep/data/w", Data: "back", UID: 1000}).Error)
	back, err := os.ReadFile(inVolume(v, "w"))
	require.NoError(t, err)
	require.Equal(t, "back", string(back))
	own, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(own), "/mnt/deep/data", "nothing is mounted here")

	live, err := n.Live(context.Background(), "/mnt/deep/data", id)
	require.NoError(t, err)
	require.True(t, live)
	f, err := n.Open(context.Background(), "/mnt/deep/data", id)
	require.NoError(t, err)
	var st unix.Statfs_t
	require.NoError(t, unix.Fstatfs(int(f.Fd()), &st))
	require.EqualValues(t, unix.TMPFS_MAGIC, st.Type)
	require.NoError(t, f.Close())
}

func TestMountPointsThatWereMadeRefuseWritesWithoutTheMount(t *testing.T) {
	b, v := newBox(t), volume(t)
	n := b.namespace(attach.NewThreads(2))
	id := mustPut(t, n, v, "/a/b", attach.CloneOptions{})
	require.NoError(t, n.Detach(context.Background(), "/a/b", id, false))
	require.Equal(t, "755 0:0", b.must("stat", "/a"))
	require.Equal(t, "555 0:0", b.must("stat", "/a/b"))
	require.Equal(t, "EACCES", b.tell(order{Do: "write", Path: "/a/b/x", UID: 1000}).Error)
	mustPut(t, n, v, "/a/b", attach.CloneOptions{})
}

func TestASubPathIsAllThatIsSeen(t *testing.T) {
	b, v := newBox(t), volume(t)
	n := b.namespace(attach.NewThreads(2))
	require.NoError(t, os.MkdirAll(inVolume(v, "tenants/t1"), 0o755))
	require.NoError(t, os.WriteFile(inVolume(v, "tenants/t1/mine"), []byte("1"), 0o644))
	mustPut(t, n, v, "/data", attach.CloneOptions{SubPath: "tenants/t1"})
	require.Equal(t, "mine ", b.must("list", "/data"))
	require.Contains(t, b.mountinfo("/data"), " /tenants/t1 /data ")
}

func TestAMissingSubPath(t *testing.T) {
	v := volume(t)
	owner := mount.Owner{UID: 1000, GID: 1001}
	require.NoError(t, os.Mkdir(inVolume(v, "there"), 0o700))
	tree, err := attach.Clone(v, attach.CloneOptions{SubPath: "there/a/b", MakeSubPath: true, Owner: owner})
	require.NoError(t, err)
	require.NoError(t, tree.Close())
	for path, want := range map[string]string{"there": "700 0:0", "there/a": "755 1000:1001", "there/a/b": "755 1000:1001"} {
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(inVolume(v, path), &st))
		require.Equal(t, want, fmt.Sprintf("%o %d:%d", st.Mode&0o7777, st.Uid, st.Gid), path)
	}
	require.NoError(t, unix.Mkdir(inVolume(v, "group"), 0))
	require.NoError(t, unix.Chmod(inVolume(v, "group"), 0o2775))
	tree, err = attach.Clone(v, attach.CloneOptions{SubPath: "group/a", MakeSubPath: true, Owner: owner})
	require.NoError(t, err, "a directory that gives its group on")
	require.NoError(t, tree.Close())
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(inVolume(v, "group/a"), &st))
	require.Equal(t, "755 1000:1001", fmt.Sprintf("%o %d:%d", st.Mode&0o777, st.Uid, st.Gid))
	_, err = attach.Clone(v, attach.CloneOptions{SubPath: "x/y"})
	require.ErrorIs(t, err, attach.ErrNotFound)
	_, err = attach.Clone(v, attach.CloneOptions{SubPath: "x/y", MakeSubPath: true, ReadOnly: true})
	require.ErrorIs(t, err, attach.ErrNotFound, "a read-only volume is not written to")
}

func TestVolumesThatLackTheSameSubPathsMakeThemTogether(t *testing.T) {
	needsRoot(t)
	top := t.TempDir()
	owner := mount.Owner{UID: 1000, GID: 1001}
	for round := range 200 {
		var g errgroup.Group
		for i := range 4 {
			g.Go(func() error {
				root, err := os.Open(top)
				if err != nil {
					return err
				}
				defer func() { _ = root.Close() }()
				sub := fmt.Sprintf("%d/deep/%d", round, i)
				tree, err := attach.Clone(root, attach.CloneOptions{SubPath: sub, MakeSubPath: true, Owner: owner})
				if err != nil {
					return err
				}
				return tree.Close()
			})
		}
		require.NoError(t, g.Wait())
		for _, rel := range []string{"", "deep", "deep/0", "deep/1", "deep/2", "deep/3"} {
			var st unix.Stat_t
			require.NoError(t, unix.Lstat(filepath.Join(top, strconv.Itoa(round), rel), &st))
			require.Equal(t, "755 1000:1001", fmt.Sprintf("%o %d:%d", st.Mode&0o7777, st.Uid, st.Gid), rel)
		}
	}
}

func TestAReadOnlyMountRefusesRoot(t *testing.T) {
	b, v := newBox(t), volume(t)
	n := b.namespace(attach.NewThreads(2))
	mustPut(t, n, v, "/data", attach.CloneOptions{ReadOnly: true})
	require.Equal(t, "EROFS", b.tell(order{Do: "write", Path: "/data/x"}).Error)
	require.Contains(t, b.mountinfo("/data"), " ro,nosuid,nodev")
	require.NoError(t, os.WriteFile(inVolume(v, "x"), nil, 0o644), "the volume itself stays writable")
}

func TestDevicesAndSetUserIDDoNotWork(t *testing.T) {
	b, v := newBox(t), volume(t)
	n := b.namespace(attach.NewThreads(2))
	require.NoError(t, os.WriteFile(inVolume(v, "su"), nil, 0o755))
	require.NoError(t, os.Chmod(inVolume(v, "su"), 0o4755|os.ModeSetuid))
	mustPut(t, n, v, "/data", attach.CloneOptions{})
	require.Equal(t, "EACCES", b.tell(order{Do: "device", Path: "/data/null"}).Error)
	require.Empty(t, b.tell(order{Do: "device", Path: "/tmp/null"}).Error, "the same works where devices are allowed")
	require.Contains(t, b.mountinfo("/data"), "nosuid,nodev")
}

func TestNothingPropagates(t *testing.T) {
	b, v := newBox(t), volume(t)
	n := b.namespace(attach.NewThreads(2))
	mustPut(t, n, v, "/data", attach.CloneOptions{})
	for _, word := range []string{"shared:", "master:"} {
		require.NotContains(t, b.mountinfo("/data"), word)
	}
}

func TestUnsafePathsAreRefused(t *testing.T) {
	b, v := newBox(t), volume(t)
	n := b.namespace(attach.NewThreads(2))
	b.must("link", "/link", "/etc")
	b.must("link", "/rel", "etc")
	b.must("mkdir", "/other")
	b.must("mount", "/other")
	b.must("mkdir", "/other/inside")
	b.must("write", "/file", "x")
	for _, target := range []string{
		"/link", "/link/x", "/rel/x", "/../../x", "/a/../b", "/proc/1/root/x", "/proc/self/root/x", "/other/inside", "/other/x", "/file", "/file/x",
		"/", "data", "",
	} {
		_, err := put(n, v, target, attach.CloneOptions{})
		require.ErrorIs(t, err, attach.ErrUnsafe, target)
	}
	require.Empty(t, b.must("list", "/etc"))
	require.Equal(t, "inside ", b.must("list", "/other"))

	require.NoError(t, os.Symlink("/etc", inVolume(v, "abs")))
	require.NoError(t, os.Symlink("..", inVolume(v, "up")))
	require.NoError(t, os.Mkdir(inVolume(v, "dir"), 0o755))
	require.NoError(t, os.Symlink("dir", inVolume(v, "near")))
	for _, sub := range []string{"abs", "abs/ssl", "up", "up/x", "near", "..", "dir/../..", "/etc", "dir//x", "./dir"} {
		_, err := attach.Clone(v, attach.CloneOptions{SubPath: sub, MakeSubPath: true})
		require.ErrorIs(t, err, attach.ErrUnsafe, sub)
	}
}

func TestATargetIsBusyWhenItIs(t *testing.T) {
	b, v := newBox(t), volume(t)
	n := b.namespace(attach.NewThreads(2))
	t.Run("mounted", func(t *testing.T) {
		mustPut(t, n, v, "/data", attach.CloneOptions{})
		_, err := put(n, v, "/data", attach.CloneOptions{})
		require.ErrorIs(t, err, attach.ErrBusy)
		_, err = put(n, v, "/proc", attach.CloneOptions{})
		require.ErrorIs(t, err, attach.ErrBusy)
	})
	t.Run("not empty, unless that is wanted", func(t *testing.T) {
		b.must("mkdir", "/full")
		b.must("write", "/full/file", "kept")
		_, err := put(n, v, "/full", attach.CloneOptions{})
		require.ErrorIs(t, err, attach.ErrBusy)
		tree, err := attach.Clone(v, attach.CloneOptions{})
		require.NoError(t, err)
		id, err := n.Attach(context.Background(), tree, "/full", attach.AttachOptions{AllowNonEmpty: true})
		require.NoError(t, err)
		require.NoError(t, tree.Close())
		require.NoError(t, n.Detach(context.Background(), "/full", id, false))
		require.Equal(t, "kept", b.must("read", "/full/file"))
	})
}

func TestOneOfManyAttachesAtOneTargetWins(t *testing.T) {
	b, v := newBox(t), volume(t)
	n := b.namespace(attach.NewThreads(8))
	results := make(chan error)
	for range 16 {
		go func() {
			_, err := put(n, v, "/data", attach.CloneOptions{})
			results <- err
		}()
	}
	won := 0
	for range 16 {
		if err := <-results; err == nil {
			won++
		} else {
			require.ErrorIs(t, err, attach.ErrBusy)
		}
	}
	require.Equal(t, 1, won)
	require.Equal(t, 1, strings.Count(b.must("read", "/proc/self/mountinfo"), " /data "))
}

func TestDetach(t *testing.T) {
	ctx := context.Background()
	b, v := newBox(t), volume(t)
	n := b.namespace(attach.NewThreads(2))
	t.Run("is idempotent", func(t *testing.T) {
		id := mustPut(t, n, v, "/data", attach.CloneOptions{})
		require.NoError(t, n.Detach(ctx, "/data", id, false))
		require.NoError(t, n.Detach(ctx, "/data", id, false))
		require.NoError(t, n.Detach(ctx, "/never/was", id, true))
		live, err := n.Live(ctx, "/data", id)
		require.NoError(t, err)
		require.False(t, live)
		require.Empty(t, b.mountinfo("/data"))
	})
	t.Run("leaves a mount that took the place alone", func(t *testing.T) {
		old := mustPut(t, n, v, "/data", attach.CloneOptions{})
		require.NoError(t, n.Detach(ctx, "/data", old, false))
		id := mustPut(t, n, v, "/data", attach.CloneOptions{})
		for _, lazy := range []bool{false, true} {
			require.NoError(t, n.Detach(ctx, "/data", old, lazy))
			live, err := n.Live(ctx, "/data", id)
			require.NoError(t, err)
			require.True(t, live)
		}
		require.NoError(t, n.Detach(ctx, "/data", id, true))
	})
	t.Run("is refused while the mount is in use, and lazy is not", func(t *testing.T) {
		id := mustPut(t, n, v, "/data", attach.CloneOptions{})
		b.must("write", "/data/f", "x")
		b.must("hold", "/data/f")
		require.ErrorIs(t, n.Detach(ctx, "/data", id, false), attach.ErrBusy)
		require.NoError(t, n.Detach(ctx, "/data", id, true))
		require.Empty(t, b.mountinfo("/data"))
		b.must("release", "/data/f")
	})
	t.Run("finds a mount that was moved with its parent", func(t *testing.T) {
		for i, lazy := range []bool{false, true} {
			from, to := fmt.Sprintf("/from %d", i), fmt.Sprintf("/to %d", i)
			id := mustPut(t, n, v, from+"/data", attach.CloneOptions{})
			b.must("rename", from, to)
			b.must("mkdir", from+"/data")
			live, err := n.Live(ctx, from+"/data", id)
			require.NoError(t, err)
			require.True(t, live)
			require.NoError(t, n.Detach(ctx, from+"/data", id, lazy))
			require.NotContains(t, b.must("read", "/proc/self/mountinfo"), "/data")
		}
	})
	t.Run("finds nothing through a link", func(t *testing.T) {
		id := mustPut(t, n, v, "/real/data", attach.CloneOptions{})
		b.must("link", "/alias", "/real")
		require.NoError(t, n.Detach(ctx, "/alias/data", id, false), "it is found by its ID")
		require.Empty(t, b.mountinfo("/real/data"))
	})
}

func TestAMountOutlivesItsMaker(t *testing.T) {
	b := newBox(t)
	n := b.namespace(attach.NewThreads(2))
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	require.NoError(t, err)
	require.NoError(t, unix.FsconfigCreate(fs))
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	require.NoError(t, err)
	v := os.NewFile(uintptr(fd), "volume")
	mustPut(t, n, v, "/data", attach.CloneOptions{})
	require.NoError(t, v.Close())
	require.NoError(t, unix.Close(fs))
	b.must("write", "/data/x", "still there")
	require.Equal(t, "still there", b.must("read", "/data/x"))
}

func TestATreeThatWasNotAttachedLeavesNothing(t *testing.T) {
	v := volume(t)
	before, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	tree, err := attach.Clone(v, attach.CloneOptions{})
	require.NoError(t, err)
	require.NoError(t, tree.Close())
	after, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))
}

func TestAVolumeMayBeADirectoryOfThisMachine(t *testing.T) {
	b := newBox(t)
	n := b.namespace(attach.NewThreads(2))
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("host"), 0o644))
	v, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, v.Close()) }()
	mustPut(t, n, v, "/data", attach.CloneOptions{ReadOnly: true})
	require.Equal(t, "host", b.must("read", "/data/f"))
}

func TestAReadOnlyRootHasNoPlaceForAMissingTarget(t *testing.T) {
	b, v := newBox(t), volume(t)
	n := b.namespace(attach.NewThreads(2))
	b.must("mkdir", "/ready")
	b.must("freeze", "/")
	_, err := put(n, v, "/missing", attach.CloneOptions{})
	require.ErrorIs(t, err, attach.ErrReadOnly)
	mustPut(t, n, v, "/ready", attach.CloneOptions{})
}

func TestDescriptorsAreNotInherited(t *testing.T) {
	before := inherited(t)
	b, v := newBox(t), volume(t)
	n := b.namespace(attach.NewThreads(2))
	tree, err := attach.Clone(v, attach.CloneOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, tree.Close()) }()
	id, err := n.Attach(context.Background(), tree, "/data", attach.AttachOptions{})
	require.NoError(t, err)
	f, err := n.Open(context.Background(), "/data", id)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	require.Equal(t, before, inherited(t))
	leak, err := unix.Dup(int(f.Fd()))
	require.NoError(t, err)
	require.NotEqual(t, before, inherited(t), "a descriptor without close-on-exec would be seen")
	require.NoError(t, unix.Close(leak))
}

// inherited are the descriptors that a child of this process starts with.
func inherited(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("ls", "/proc/self/fd").Output()
	require.NoError(t, err)
	return string(out)
}

// outside is a path of the container as this process sees it.
func (b *box) outside(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", b.cmd.Process.Pid, path)
}

func TestAMountIsFoundUnderEveryNameThatItsDirectoriesAreGiven(t *testing.T) {
	for _, name := range []string{"/a b", "/a\tb", "/a\nb", "/a\\b", "/a\rb", "/a\vb", "/a\fb", "/a\u0085b", "/a\u00a0b", "/a\\040b"} {
		b, v := newBox(t), volume(t)
		n := b.namespace(attach.NewThreads(1))
		id := mustPut(t, n, v, "/data/vol", attach.CloneOptions{})
		require.NoError(t, os.Rename(b.outside("/data"), b.outside(name)))
		live, err := n.Live(t.Context(), "/data/vol", id)
		require.NoError(t, err, "%q", name)
		require.True(t, live, "%q", name)
		f, err := n.Open(t.Context(), "/data/vol", id)
		require.NoError(t, err, "%q", name)
		require.NoError(t, f.Close())
		require.NoError(t, n.Detach(t.Context(), "/data/vol", id, false), "%q", name)
		require.NotContains(t, b.must("read", "/proc/self/mountinfo"), "/vol ")
	}
}

func TestAMountThatWasMovedDeeperThanAPathCanSayIsThereAndKeepsNoThread(t *testing.T) {
	b, v := newBox(t), volume(t)
	threads := attach.NewThreads(1)
	n := b.namespace(threads)
	id := mustPut(t, n, v, "/data/vol", attach.CloneOptions{})
	other := mustPut(t, n, v, "/other", attach.CloneOptions{})
	at, err := unix.Open(b.outside("/"), unix.O_PATH, 0)
	require.NoError(t, err)
	root := at
	for range 30_000 { // longer than a page, a path, and what is read of a line
		require.NoError(t, unix.Mkdirat(at, "deep", 0o755))
		next, err := unix.Openat(at, "deep", unix.O_PATH, 0)
		require.NoError(t, err)
		if at != root {
			require.NoError(t, unix.Close(at))
		}
		at = next
	}
	require.NoError(t, unix.Renameat(root, "data", at, "x"))
	require.NoError(t, errors.Join(unix.Close(at), unix.Close(root)))

	live, err := n.Live(t.Context(), "/data/vol", id)
	require.NoError(t, err)
	require.True(t, live)
	_, err = n.Open(t.Context(), "/data/vol", id)
	require.ErrorIs(t, err, attach.ErrBusy)
	require.ErrorIs(t, n.Detach(t.Context(), "/data/vol", id, true), attach.ErrBusy)
	require.Zero(t, threads.Stuck())
	live, err = n.Live(t.Context(), "/other", other)
	require.NoError(t, err)
	require.True(t, live)
	require.NoError(t, os.Rename(b.outside("/other"), b.outside("/elsewhere")))
	require.NoError(t, n.Detach(t.Context(), "/other", other, false), "the others are still found in the table")
}

func TestNoDescriptorStaysBehind(t *testing.T) {
	b, v := newBox(t), volume(t)
	n := b.namespace(attach.NewThreads(2))
	before := descriptors(t)
	for range 50 {
		id := mustPut(t, n, v, "/data", attach.CloneOptions{SubPath: "a/b", MakeSubPath: true})
		_, err := put(n, v, "/data", attach.CloneOptions{})
		require.ErrorIs(t, err, attach.ErrBusy)
		_, err = put(n, v, "/proc/1/root/x", attach.CloneOptions{})
		require.ErrorIs(t, err, attach.ErrUnsafe)
		live, err := n.Live(context.Background(), "/data", id)
		require.NoError(t, err)
		require.True(t, live)
		require.NoError(t, n.Detach(context.Background(), "/data", id, true))
	}
	require.Equal(t, before, descriptors(t))
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}
