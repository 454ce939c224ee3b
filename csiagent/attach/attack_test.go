//go:build linux

package attach_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
)

const rounds = 2000

// calm ends the race and proves that there was one.
func (b *box) calm(t *testing.T) {
	t.Helper()
	swaps, err := strconv.Atoi(b.must("calm", "/"))
	require.NoError(t, err)
	require.Greater(t, swaps, rounds)
}

func TestALinkSwappedIntoTheTargetNeverLeadsOut(t *testing.T) {
	for name, c := range map[string]struct{ target, link string }{
		"in the middle": {"/race/a/x", "/etc"},
		"at the end":    {"/race/a", "/etc"},
		"upwards":       {"/race/a/x", ".."},
	} {
		t.Run(name, func(t *testing.T) {
			b, v := newBox(t), volume(t)
			n := b.namespace(attach.NewThreads(2))
			b.must("mkdir", "/race/a")
			b.must("link", "/race/b", c.link)
			b.must("exchange", "/race/a", "/race/b")
			attached := 0
			for range rounds {
				id, err := put(n, v, c.target, attach.CloneOptions{})
				if err != nil {
					require.True(t, anyOf(err, attach.ErrUnsafe, attach.ErrBusy, attach.ErrNotFound), "%v", err)
					continue
				}
				attached++
				require.NoError(t, n.Detach(context.Background(), c.target, id, true))
			}
			b.calm(t)
			require.Positive(t, attached, "the race was lost each time: it proves nothing")
			require.Empty(t, b.must("list", "/etc"), "nothing was made behind the link")
			require.NotContains(t, b.must("list", "/race"), "x")
			require.NotContains(t, b.must("list", "/"), "x")
			require.NotContains(t, b.must("read", "/proc/self/mountinfo"), "/race")
			require.NotContains(t, b.must("read", "/proc/self/mountinfo"), " /etc ")
		})
	}
}

// The same race against a walk that looks at a path and then uses it: the tests above can fail.
func TestALinkSwappedInLeadsAWalkByNameOut(t *testing.T) {
	b := newBox(t)
	b.must("mkdir", "/race/a")
	b.must("link", "/race/b", "..")
	b.must("exchange", "/race/a", "/race/b")
	dir := filepath.Join("/proc", strconv.Itoa(b.cmd.Process.Pid), "root", "race", "a")
	for range 100 * rounds {
		if st, err := os.Lstat(dir); err == nil && st.IsDir() {
			_ = os.Mkdir(filepath.Join(dir, "x"), 0o700)
		}
		if strings.Contains(b.must("list", "/"), "x") {
			b.must("calm", "/")
			return
		}
	}
	require.Fail(t, "the race finds nothing: it proves nothing")
}

func TestALinkSwappedIntoTheSubPathNeverLeadsOut(t *testing.T) {
	outside := t.TempDir() // of this machine, where the sub path is resolved
	for name, link := range map[string]string{"absolute": outside, "upwards": "../.."} {
		t.Run(name, func(t *testing.T) {
			b, v := newBox(t), volume(t)
			n := b.namespace(attach.NewThreads(2))
			mustPut(t, n, v, "/vol", attach.CloneOptions{})
			b.must("mkdir", "/vol/in/a")
			b.must("link", "/vol/in/b", link)
			b.must("exchange", "/vol/in/a", "/vol/in/b")
			cloned := 0
			for range rounds {
				tree, err := attach.Clone(v, attach.CloneOptions{SubPath: "in/a/escape", MakeSubPath: true})
				if err != nil {
					require.True(t, anyOf(err, attach.ErrUnsafe, attach.ErrNotFound), "%v", err)
					continue
				}
				cloned++
				require.NoError(t, tree.Close())
			}
			b.calm(t)
			require.Positive(t, cloned, "the race was lost each time: it proves nothing")
			left, err := os.ReadDir(outside)
			require.NoError(t, err)
			require.Empty(t, left)
			require.NotContains(t, b.must("list", "/vol"), "escape")
		})
	}
}

func anyOf(err error, kinds ...error) bool {
	for _, k := range kinds {
		if errors.Is(err, k) {
			return true
		}
	}
	return false
}

func TestNoOtherCodeEverRunsInTheSandbox(t *testing.T) {
	b, v := newBox(t), volume(t)
	n := b.namespace(attach.NewThreads(8))
	b.must("write", "/only-in-the-sandbox", "x")
	own, err := os.Readlink("/proc/thread-self/ns/mnt")
	require.NoError(t, err)
	var stop atomic.Bool
	var poisoned, looked atomic.Int64
	var lookers, workers errgroup.Group
	for range 4 {
		lookers.Go(func() error {
			for !stop.Load() {
				looked.Add(1)
				if _, err := os.Stat("/only-in-the-sandbox"); err == nil {
					poisoned.Add(1)
				}
				runtime.Gosched()
			}
			return nil
		})
	}
	for w := range 4 {
		workers.Go(func() error {
			target := "/data" + strconv.Itoa(w)
			for range 100 {
				id, err := put(n, v, target, attach.CloneOptions{})
				if err != nil {
					return err
				}
				if err := n.Detach(context.Background(), target, id, true); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, workers.Wait())
	stop.Store(true)
	require.NoError(t, lookers.Wait())
	require.Greater(t, looked.Load(), int64(1000))
	require.Zero(t, poisoned.Load())
	first, err := os.Readlink("/proc/self/ns/mnt")
	require.NoError(t, err)
	require.Equal(t, own, first, "the first thread stays where it is")
	require.Eventually(t, func() bool { return foreign(t, own) == 0 }, 20*time.Second, 5*time.Millisecond, "threads end with their work")
}

// foreign counts the threads of this process that are in another mount namespace.
func foreign(t *testing.T, own string) (n int) {
	links, err := filepath.Glob("/proc/self/task/*/ns/mnt")
	require.NoError(t, err)
	for _, l := range links {
		if ns, err := os.Readlink(l); err == nil && ns != own {
			n++
		}
	}
	return n
}

func TestACallThatEndsEarlyLeavesNothing(t *testing.T) {
	b, v := newBox(t), volume(t)
	threads := attach.NewThreads(2)
	n := b.namespace(threads)
	ended, target := 0, "/data"
	for i := range 300 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i)*time.Microsecond)
		tree, err := attach.Clone(v, attach.CloneOptions{})
		require.NoError(t, err)
		id, err := n.Attach(ctx, tree, target, attach.AttachOptions{})
		cancel()
		require.NoError(t, tree.Close())
		if err == nil {
			require.NoError(t, n.Detach(context.Background(), target, id, true))
			continue
		}
		require.ErrorIs(t, err, context.DeadlineExceeded)
		ended++
	}
	require.Positive(t, ended)
	require.Eventually(t, func() bool { return threads.Stuck() == 0 }, 20*time.Second, time.Millisecond)
	require.Empty(t, b.mountinfo(target))
}

func TestACallInAClosedNamespaceSaysThatTheContainerIsGone(t *testing.T) {
	b, v := newBox(t), volume(t)
	n := b.namespace(attach.NewThreads(2))
	id := mustPut(t, n, v, "/data", attach.CloneOptions{})
	require.NoError(t, n.Close())
	<-n.Gone()
	_, err := put(n, v, "/data2", attach.CloneOptions{})
	require.ErrorIs(t, err, attach.ErrGone)
	_, err = n.Live(context.Background(), "/data", id)
	require.ErrorIs(t, err, attach.ErrGone)
	require.ErrorIs(t, n.Detach(context.Background(), "/data", id, true), attach.ErrGone)
}

func TestOnlyMountNamespacesAreTaken(t *testing.T) {
	for _, path := range []string{"/proc/self/ns/net", "/proc/self/ns/user", "/", "/dev/null"} {
		f, err := os.Open(path)
		require.NoError(t, err)
		_, err = attach.NewNamespace(f, attach.NewThreads(1))
		require.ErrorIs(t, err, attach.ErrUnsafe, path)
		require.NoError(t, f.Close())
	}
}

// deaf is a FUSE volume whose client never answers; closing the file makes the client dead.
func deaf(t *testing.T) (root, client *os.File) {
	t.Helper()
	needsRoot(t)
	client, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skip("needs /dev/fuse: ", err)
	}
	fs, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(fs)) }()
	for k, v := range map[string]string{"fd": strconv.Itoa(int(client.Fd())), "rootmode": "40000", "user_id": "0", "group_id": "0"} {
		require.NoError(t, unix.FsconfigSetString(fs, k, v))
	}
	require.NoError(t, unix.FsconfigCreate(fs))
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	require.NoError(t, err)
	root = os.NewFile(uintptr(fd), "fuse")
	t.Cleanup(func() { _ = client.Close(); _ = root.Close() })
	return root, client
}

func TestAVolumeWhoseClientDoesNotAnswerCanBeTakenAway(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for name, dead := range map[string]bool{"hung": false, "dead": true} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			threads := attach.NewThreads(2)
			n := b.namespace(threads)
			root, client := deaf(t)
			id := mustPut(t, n, root, "/data", attach.CloneOptions{})
			if dead {
				require.NoError(t, client.Close())
				require.Equal(t, "ENOTCONN", b.tell(order{Do: "list", Path: "/data"}).Error)
			}
			live, err := n.Live(ctx, "/data", id)
			require.NoError(t, err)
			require.True(t, live)
			require.NoError(t, n.Detach(ctx, "/data", id, true))
			require.Empty(t, b.mountinfo("/data"))
			require.Zero(t, threads.Stuck())
		})
	}
}

func BenchmarkAttachDetach(b *testing.B) {
	world := newBox(b)
	v := volume(b)
	n := world.namespace(attach.NewThreads(attach.DefaultThreads))
	for b.Loop() {
		id, err := put(n, v, "/data", attach.CloneOptions{})
		require.NoError(b, err)
		require.NoError(b, n.Detach(context.Background(), "/data", id, false))
	}
}
