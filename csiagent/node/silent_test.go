package node_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

// shallow is a file system that answers for its root and for nothing below it.
type shallow struct{ fs.Inode }

func (s *shallow) Lookup(context.Context, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	select {}
}

// serveShallow serves it, in a process of its own since whoever waits for it cannot be killed; its end is everybody's, and it has one.
func serveShallow(dir string) int {
	if _, err := fs.Mount(dir, &shallow{}, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true}}); err != nil {
		return 1
	}
	<-time.After(time.Minute)
	return 0
}

// silence mounts a file system whose server never answers, until let is called.
func silence(t *testing.T, dir string) (let func()) {
	t.Helper()
	require.NoError(t, os.Mkdir(dir, 0o755))
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("needs /dev/fuse: ", err)
	}
	server := os.NewFile(uintptr(fd), "server")
	require.NoError(t, unix.Mount("silent", dir, "fuse", 0, "fd="+strconv.Itoa(fd)+",rootmode=40000,user_id=0,group_id=0"))
	t.Cleanup(func() { _ = server.Close(); _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return func() { require.NoError(t, server.Close()) }
}

func TestADirectoryOfAServerThatNeverAnswersKeepsNobodyWaiting(t *testing.T) {
	w := newWorld(t)
	let := silence(t, filepath.Join(w.host, "dead"))
	require.NoError(t, os.Mkdir(filepath.Join(w.host, "alive"), 0o755))
	dead, alive := w.hostPath("/dead"), w.hostPath("/alive")
	dead.Attributes, alive.Attributes = map[string]string{"path": w.host + "/dead"}, map[string]string{"path": w.host + "/alive"}
	dead.VolumeHandle, alive.VolumeHandle = "dead", "alive"
	refused := make(chan error, 1)
	go func() { refused <- w.Publish(t.Context(), dead) }()
	for _, m := range []mount.Mount{alive, memory("/mem")} {
		begin := time.Now()
		require.NoError(t, w.Publish(t.Context(), m))
		require.Less(t, time.Since(begin), probe.DefaultTimeout, "others do not wait for it")
	}
	begin := time.Now()
	require.ErrorIs(t, <-refused, mount.ErrUnavailable)
	require.Less(t, time.Since(begin), 3*probe.DefaultTimeout)
	begin = time.Now()
	require.ErrorIs(t, w.Publish(t.Context(), dead), mount.ErrUnavailable)
	require.Less(t, time.Since(begin), probe.DefaultTimeout, "one thread is enough to wait for it")
	require.Len(t, w.Mounts(t.Context()), 2)
	let()
	require.Eventually(t, func() bool {
		err := w.Publish(t.Context(), dead)
		return err != nil && !errors.Is(err, mount.ErrUnavailable)
	}, 20*time.Second, 10*time.Millisecond, "its end is known")
}

func TestASubPathOfAServerThatStopsAnsweringIsGivenUp(t *testing.T) {
	w := newWorld(t)
	top := filepath.Join(w.host, "shallow")
	require.NoError(t, os.Mkdir(top, 0o755))
	server := exec.Command("/proc/self/exe", "shallow", top)
	require.NoError(t, server.Start())
	end := sync.OnceFunc(func() { _ = server.Process.Kill(); _ = server.Wait() })
	t.Cleanup(func() { end(); _ = unix.Unmount(top, unix.MNT_DETACH) })
	require.Eventually(t, func() bool {
		table, err := os.ReadFile("/proc/self/mountinfo")
		return err == nil && strings.Contains(string(table), " "+top+" ")
	}, 20*time.Second, 5*time.Millisecond)
	m := w.hostPath("/data")
	m.Attributes = map[string]string{"path": top}
	require.NoError(t, w.Publish(t.Context(), m), "its root is all right")
	require.Equal(t, node.VerdictLive, verdict(w).Verdict)
	sub := w.hostPath("/sub")
	sub.Attributes, sub.SubPath = m.Attributes, "a/b"
	begin := time.Now()
	require.ErrorIs(t, w.Publish(t.Context(), sub), mount.ErrUnavailable)
	require.Less(t, time.Since(begin), 3*probe.DefaultTimeout)
	begin = time.Now()
	require.ErrorIs(t, w.Publish(t.Context(), sub), mount.ErrUnavailable)
	require.Less(t, time.Since(begin), probe.DefaultTimeout, "one thread is enough to wait for it")
	end()
	require.Eventually(t, func() bool {
		err := w.Publish(t.Context(), sub)
		return err != nil && !errors.Is(err, mount.ErrUnavailable)
	}, 20*time.Second, 10*time.Millisecond, "and is free again")
	require.ErrorIs(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}), node.ErrDataLoss, "its server died")
}
