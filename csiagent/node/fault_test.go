package node_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/driver/oss"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

// client is the process that serves the bucket of the only FUSE mount below dir; no arguments hold secrets, so they are searched.
func client(t testing.TB, dir string) int {
	t.Helper()
	pids, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, p := range pids {
		line, err := os.ReadFile(p)
		program := filepath.Base(string(line[:max(0, bytes.IndexByte(line, 0))]))
		if err == nil && (program == "s3fs" || program == "ossfs") && bytes.Contains(line, []byte(dir)) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			require.NoError(t, err)
			return pid
		}
	}
	return 0
}

func TestABucketIsMountedReadAndFlushedWithTheSandboxsFiles(t *testing.T) {
	s, w := newStore(t), newWorld(t)
	m := s.volume("/data")
	m.SubPath = "team/a"
	begin := time.Now()
	require.NoError(t, w.Publish(t.Context(), m))
	t.Logf("published after %v", time.Since(begin))
	require.NotZero(t, client(t, w.config.Dir))
	require.Len(t, leftovers(t, w.config.Dir), 1, "the client only: no mount in our own table")
	require.NoError(t, os.WriteFile(w.box.path("data", "f"), []byte("x"), 0o600))
	require.Equal(t, node.Mounted, w.Mounts(t.Context())[0].Phase)
	require.NoError(t, w.Publish(t.Context(), m), "again")

	require.NoError(t, w.Unpublish(t.Context(), node.Identity{VolumeHandle: "oss-handle", Target: "/data"}))
	require.Zero(t, client(t, w.config.Dir))
	got, err := os.ReadFile(filepath.Join(s.dir, "data", "team", "a", "f"))
	require.NoError(t, err)
	require.Equal(t, "x", string(got))
}

func TestSeveralBucketsAreMountedAtOnce(t *testing.T) {
	s, w := newStore(t), newWorld(t)
	errs := make(chan error)
	for i := range 4 {
		go func() { errs <- w.Publish(t.Context(), s.volume(fmt.Sprintf("/data%d", i))) }()
	}
	for range 4 {
		require.NoError(t, <-errs)
	}
	require.Len(t, w.Mounts(t.Context()), 4)
	begin := time.Now()
	require.NoError(t, w.UnpublishAll(t.Context()))
	require.Less(t, time.Since(begin), 5*time.Second)
}

func TestAFailedBucketIsNamedAndLeavesNothing(t *testing.T) {
	s, w := newStore(t), newWorld(t)
	for name, c := range map[string]struct {
		change func(*mount.Mount)
		want   error
	}{
		"a wrong secret":         {func(m *mount.Mount) { m.Secret = mount.Secret{"akId": storeKey, "akSecret": "SKCANARYwrong"} }, mount.ErrDenied},
		"a missing bucket":       {func(m *mount.Mount) { m.Attributes["bucket"] = "nosuchbucket" }, mount.ErrNotFound},
		"a server that is down":  {func(m *mount.Mount) { m.Attributes["url"] = "http://127.0.0.1:1" }, mount.ErrUnavailable},
		"a bad attribute":        {func(m *mount.Mount) { m.Attributes["otherOpts"] = "-o suid" }, mount.ErrInvalid},
		"a target that is taken": {func(m *mount.Mount) { m.Target = "/old" }, node.ErrConflict},
	} {
		m := s.volume("/data")
		c.change(&m)
		err := w.Publish(t.Context(), m)
		require.ErrorIs(t, err, c.want, name)
		require.NotContains(t, err.Error(), "CANARY", name)
		require.NotContains(t, err.Error(), w.config.Dir, name)
		require.Empty(t, w.files(), name)
		require.Empty(t, leftovers(t, w.config.Dir), name)
		require.Empty(t, w.box.mounts(t, "/data"), name)
	}
}

func TestAKilledClientIsReportedAndItsVolumesDataMayBeMissing(t *testing.T) {
	s, w := newStore(t), newWorld(t)
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	w.restart() // which knows no credentials: nobody replaces the client
	require.NoError(t, w.Adopt(t.Context()))
	require.NoError(t, unix.Kill(client(t, w.config.Dir), unix.SIGKILL))
	select {
	case l := <-w.died:
		require.Equal(t, []any{"/data", node.Failed}, []any{l.Target, l.Phase})
	case <-time.After(2 * time.Second):
		t.Fatal("its end was not noticed")
	}
	live := w.Mounts(t.Context())
	require.Equal(t, node.Failed, live[0].Phase)
	require.Contains(t, live[0].Message, "ended")
	_, err := os.ReadDir(w.box.path("data"))
	require.ErrorIs(t, err, unix.ENOTCONN, "loud in the sandbox, not a bare directory")
	require.ErrorIs(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}), node.ErrDataLoss)
	require.NoError(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}), "again")
}

func TestAStoppedClientIsReportedAsHungAndUnpublishedInBoundedTime(t *testing.T) {
	s, w := newStore(t), newWorld(t)
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	begin := time.Now()
	require.NoError(t, unix.Kill(client(t, w.config.Dir), unix.SIGSTOP))
	live := w.Mounts(t.Context())
	told := time.Since(begin)
	require.Equal(t, node.Failed, live[0].Phase)
	require.Contains(t, live[0].Message, "does not answer")
	begin = time.Now()
	require.ErrorIs(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}), node.ErrDataLoss)
	t.Logf("told of after %v, unpublished after %v", told, time.Since(begin))
	require.Less(t, time.Since(begin), 6*time.Second)
	require.Zero(t, client(t, w.config.Dir))
	require.Empty(t, w.box.mounts(t, "/data"))
}

func TestAnOpenFileKeepsTheVolumeUntilItsTimeIsUp(t *testing.T) {
	s, w := newStore(t), newWorld(t, func(c *node.Config) { c.DrainTimeout = 300 * time.Millisecond })
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	f, err := os.Create(w.box.path("data", "open"))
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	begin := time.Now()
	require.ErrorIs(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}), node.ErrDataLoss)
	require.Less(t, time.Since(begin), 3*time.Second)
	require.Empty(t, w.box.mounts(t, "/data"))
}

func TestProgramsThatOnlyReadOrStayInAVolumeLoseNothingByItsEnd(t *testing.T) {
	s, w := newStore(t), newWorld(t, func(c *node.Config) { c.DrainTimeout = 2 * time.Minute })
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	require.NoError(t, os.Mkdir(w.box.path("data", "dir"), 0o755))
	inside := exec.CommandContext(t.Context(), "sleep", "600")
	inside.Dir = w.box.path("data", "dir")
	require.NoError(t, inside.Start())
	defer func() { _ = inside.Process.Kill(); _ = inside.Wait() }()
	require.NoError(t, os.WriteFile(w.box.path("data", "dir", "f"), []byte("last words"), 0o600))
	f, err := os.Open(w.box.path("data", "dir", "f"))
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	begin := time.Now()
	require.NoError(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}), "all is written back, and that is what is said")
	require.Less(t, time.Since(begin), time.Minute)
	require.Zero(t, client(t, w.config.Dir))
	got, err := os.ReadFile(filepath.Join(s.dir, "data", "dir", "f"))
	require.NoError(t, err)
	require.Equal(t, "last words", string(got))
	require.Error(t, os.WriteFile(filepath.Join("/proc", strconv.Itoa(inside.Process.Pid), "cwd", "g"), nil, 0o600), "nothing more is taken")
}

// late is a client that may store what was written after the close.
type late struct{ *oss.Driver }

func (d late) Mount(ctx context.Context, m mount.Mount, dir string) (mount.Source, error) {
	src, err := d.Driver.Mount(ctx, m, dir)
	src.StoresOnClose = false
	return src, err
}

func TestAClientThatMayStoreAfterTheCloseIsWaitedForToTheEnd(t *testing.T) {
	s, w := newStore(t), newWorld(t, func(c *node.Config) {
		c.Drivers[mount.DriverOSS], c.DrainTimeout = late{c.Drivers[mount.DriverOSS].(*oss.Driver)}, time.Second
	})
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	inside := exec.CommandContext(t.Context(), "sleep", "600")
	inside.Dir = w.box.path("data")
	require.NoError(t, inside.Start())
	defer func() { _ = inside.Process.Kill(); _ = inside.Wait() }()
	require.ErrorIs(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}), node.ErrDataLoss)
}

// A tenant can mount the volume once more where the agent does not see it, and write there.
func TestAFileThatIsOpenForWritingInAnotherNamespaceIsNotTakenForWrittenBack(t *testing.T) {
	s, w := newStore(t), newWorld(t, func(c *node.Config) { c.DrainTimeout = time.Second })
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(w.box.pid), "ns", "mnt"))
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	hidden, failed := -1, make(chan error)
	elsewhere(func() {
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNS)
		}
		if err == nil {
			err = unix.Unshare(unix.CLONE_NEWNS)
		}
		if err == nil {
			hidden, err = unix.Open("/data/open", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
		}
		failed <- err
	})
	require.NoError(t, <-failed)
	defer func() { _ = unix.Close(hidden) }()
	inside := exec.CommandContext(t.Context(), "sleep", "600")
	inside.Dir = w.box.path("data")
	require.NoError(t, inside.Start())
	defer func() { _ = inside.Process.Kill(); _ = inside.Wait() }()
	require.ErrorIs(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}), node.ErrDataLoss)
}

func TestABucketThatNobodyUsesIsWrittenBackAndOneInUseStays(t *testing.T) {
	s, w := newStore(t), newWorld(t)
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	f, err := os.Create(w.box.path("data", "f"))
	require.NoError(t, err)
	_, err = f.WriteString("x")
	require.NoError(t, err)
	id := node.Identity{VolumeHandle: "oss-handle", Target: "/data"}
	require.ErrorIs(t, w.UnpublishIdle(t.Context(), id), node.ErrInUse)
	require.NotZero(t, client(t, w.config.Dir))
	require.NoError(t, f.Close())
	require.NoError(t, w.UnpublishIdle(t.Context(), id))
	require.Zero(t, client(t, w.config.Dir))
	got, err := os.ReadFile(filepath.Join(s.dir, "data", "f"))
	require.NoError(t, err)
	require.Equal(t, "x", string(got))

	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	pid := client(t, w.config.Dir)
	require.NoError(t, unix.Kill(pid, unix.SIGSTOP))
	require.ErrorIs(t, w.UnpublishIdle(t.Context(), id), mount.ErrUnavailable, "what cannot be written back is not given up unasked")
	require.Len(t, w.box.mounts(t, "/data"), 1)
	require.NoError(t, s.process.Process.Kill()) // else another client took its place
	require.NoError(t, unix.Kill(pid, unix.SIGCONT))
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	<-w.died
	require.ErrorIs(t, w.UnpublishIdle(t.Context(), id), node.ErrDataLoss, "of a dead client nothing can be saved")
	require.Empty(t, w.box.mounts(t, "/data"))
}

func TestAVolumeWhoseContainerCannotBeReachedStaysAsItIsUntilItsEndIsKnown(t *testing.T) {
	var away atomic.Pointer[error]
	s := newStore(t)
	w := newWorld(t, func(c *node.Config) {
		c.DrainTimeout = 300 * time.Millisecond
		there := c.Target
		c.Target = func(ctx context.Context, name string) (node.Target, error) {
			if err := away.Load(); err != nil {
				return nil, *err
			}
			return there(ctx, name)
		}
	})
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	pid := client(t, w.config.Dir)
	f, err := os.Create(w.box.path("data", "f"))
	require.NoError(t, err)
	_, err = f.WriteString("x")
	require.NoError(t, err)
	id := node.Identity{VolumeHandle: "oss-handle", Target: "/data"}
	late, ended := context.DeadlineExceeded, attach.ErrGone
	away.Store(&late) // as after a restart of the agent, before the container is back
	require.ErrorIs(t, w.Unpublish(t.Context(), id), mount.ErrUnavailable)
	require.ErrorIs(t, w.UnpublishAll(t.Context()), mount.ErrUnavailable)
	require.Equal(t, pid, client(t, w.config.Dir))
	_, err = f.WriteString("y")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	away.Store(nil)
	require.Equal(t, node.VerdictLive, verdict(w).Verdict)
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	<-w.died // it is watched still
	w.heals(pid)
	got, err := os.ReadFile(filepath.Join(s.dir, "data", "f"))
	require.NoError(t, err)
	require.Equal(t, "xy", string(got))

	away.Store(&ended)
	require.ErrorIs(t, w.UnpublishAll(t.Context()), node.ErrDataLoss, "somebody has its mount still")
	require.Zero(t, client(t, w.config.Dir))
	w.box.unmount(t, "/data")
}

// leaver is a Probe whose caller leaves when all is to be written back.
type leaver struct {
	node.Probe
	leave context.CancelFunc
}

func (l leaver) Sync(ctx context.Context, dir *os.File) error {
	l.leave()
	return l.Probe.Sync(ctx, dir)
}

func TestACallerThatLeavesCostsNoLastWrites(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s, w := newStore(t), newWorld(t, func(c *node.Config) { c.Probe = leaver{c.Probe, cancel} })
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	require.NoError(t, os.WriteFile(w.box.path("data", "f"), []byte("x"), 0o600))
	require.NoError(t, w.Unpublish(ctx, node.Identity{Target: "/data"}))
	require.Empty(t, w.box.mounts(t, "/data"))
	got, err := os.ReadFile(filepath.Join(s.dir, "data", "f"))
	require.NoError(t, err)
	require.Equal(t, "x", string(got))
}

func TestAVolumeEndsWithItsSandboxAndIsFlushedFirst(t *testing.T) {
	s, w := newStore(t), newWorld(t)
	namespace, err := w.config.Target(t.Context(), "")
	require.NoError(t, err)
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	require.NoError(t, os.WriteFile(w.box.path("data", "f"), []byte("x"), 0o600))
	w.box.end()
	require.NoError(t, namespace.(*attach.Namespace).Close())
	require.NoError(t, w.UnpublishAll(t.Context()), w.log)
	got, err := os.ReadFile(filepath.Join(s.dir, "data", "f"))
	require.NoError(t, err)
	require.Equal(t, "x", string(got))
}

func TestAContainerThatIsStartedAgainGetsItsVolumesAgain(t *testing.T) {
	s := newStore(t)
	var now atomic.Pointer[attach.Namespace]
	w := newWorld(t, func(c *node.Config) {
		first, err := c.Target(t.Context(), "")
		require.NoError(t, err)
		now.Store(first.(*attach.Namespace))
		c.Target = func(context.Context, string) (node.Target, error) { return now.Load(), nil }
	})
	first := now.Load()
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	require.NoError(t, w.Publish(t.Context(), memory("/scratch")))
	require.NoError(t, os.WriteFile(w.box.path("data", "f"), []byte("x"), 0o600))
	w.box.end()
	require.NoError(t, first.Close())
	w.box = newBox(t)
	now.Store(w.box.namespace(t))
	require.NotEqual(t, first.ID(), now.Load().ID())

	for _, l := range w.Mounts(t.Context()) {
		require.Equal(t, node.Failed, l.Phase)
		require.Contains(t, l.Message, "the container that had it is gone")
	}
	for range 2 {
		require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
		require.NoError(t, w.Publish(t.Context(), memory("/scratch")))
		w.restart() // which knows them all the same
		require.NoError(t, w.Adopt(t.Context()))
	}
	got, err := os.ReadFile(w.box.path("data", "f"))
	require.NoError(t, err)
	require.Equal(t, "x", string(got), "what the first has written was uploaded before")
	require.Len(t, w.box.mounts(t, "/scratch"), 1)
	require.NoError(t, w.UnpublishAll(t.Context()))
}

func TestAnAgentThatEndsCanWaitForClientsOfAContainerThatIsGone(t *testing.T) {
	s, w := newStore(t), newWorld(t)
	require.NoError(t, w.Finish(t.Context()), "without mounts there is nothing to wait for")
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	require.NoError(t, os.WriteFile(w.box.path("data", "f"), []byte("x"), 0o600))
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, w.Finish(short), context.DeadlineExceeded, "the container lives")
	namespace, err := w.config.Target(t.Context(), "")
	require.NoError(t, err)
	w.box.end()
	require.NoError(t, namespace.(*attach.Namespace).Close())
	require.NoError(t, w.Finish(t.Context()))
	require.Zero(t, client(t, w.config.Dir))
	require.FileExists(t, filepath.Join(s.dir, "data", "f"))
}

func TestAClientOutlivesTheAgentAndIsAdopted(t *testing.T) {
	s, w := newStore(t), newWorld(t)
	require.Equal(t, "exit", runVictim(t, w, s, "none"), "the agent ends, the mount stays")
	require.NotZero(t, client(t, w.config.Dir))
	require.NoError(t, w.Adopt(t.Context()))
	require.Equal(t, node.Mounted, w.Mounts(t.Context())[0].Phase)
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")), "nothing is done twice")
	require.NoError(t, os.WriteFile(w.box.path("data", "f"), []byte("x"), 0o600))
	require.NoError(t, unix.Kill(client(t, w.config.Dir), unix.SIGKILL))
	select {
	case <-w.died:
	case <-time.After(2 * time.Second):
		t.Fatal("an adopted client is watched too")
	}
}

// murderer is a client that kills the agent that has started it, and goes on.
const murderer = `#!/bin/sh
kill -9 $PPID
exec s3fs "$@"
`

// runVictim publishes in a process of its own, which dies at step, and says how it ended.
func runVictim(t *testing.T, w *world, s *store, step string, env ...string) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "victim", w.config.Dir, strconv.Itoa(w.box.pid), s.address, step)
	cmd.Stderr = w.log
	bin := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bin, "s3fs"), []byte(murderer), 0o700))
	cmd.Env = append(append(os.Environ(), "MURDERER="+bin), env...)
	err := cmd.Run()
	if err == nil {
		return "exit"
	}
	if st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && st.Signal() == syscall.SIGKILL {
		return "killed"
	}
	return err.Error() + w.log.String()
}

// local lets stores of this machine through.
var local = oss.Config{Guard: mount.Guard{Loopback: true}}
