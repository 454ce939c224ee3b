package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/clients"
	"github.com/sandgate-dev/sandgate/csiagent/driver/oss"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

// serveClients is the process that a container of clients is.
func serveClients(socket string) int {
	s, err := clients.Listen(clients.Config{
		Socket: socket, Dir: filepath.Join(filepath.Dir(socket), "clients"), Source: oss.New(oss.Config{Guard: mount.Guard{Loopback: true}}), Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err == nil {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		err = s.Serve(ctx, 0)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// house is a container of clients beside the agent: a process with a mount namespace of its own.
type house struct {
	t      *testing.T
	socket string
	cmd    *exec.Cmd
}

func newHouse(t *testing.T) *house {
	h := &house{t: t, socket: filepath.Join(t.TempDir(), "clients.sock")}
	h.start()
	t.Cleanup(h.end)
	return h
}

func (h *house) start() {
	self, err := os.Executable()
	require.NoError(h.t, err)
	h.cmd = exec.Command("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", self, "clients", h.socket)
	h.cmd.Stderr = os.Stderr
	require.NoError(h.t, h.cmd.Start())
	require.Eventually(h.t, func() bool {
		c, err := net.Dial("unix", h.socket)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, 20*time.Second, 5*time.Millisecond)
}

// end ends it, and all of its processes with it.
func (h *house) end() {
	_ = h.cmd.Process.Kill()
	_ = h.cmd.Wait()
}

func (h *house) driver(c *node.Config) {
	c.Drivers[mount.DriverOSS] = &clients.Driver{Socket: h.socket, Checks: func(mount.Mount) error { return nil }}
}

func TestClientsInAContainerOfTheirOwnOutliveTheAgent(t *testing.T) {
	s, h := newStore(t), newHouse(t)
	w := newWorld(t, h.driver)
	m := s.volume("/data")
	m.SubPath = "team/a"
	require.Equal(t, "exit", runVictim(t, w, s, "none", "CLIENTS="+h.socket), "the agent ends, the mount stays")
	require.Zero(t, len(leftovers(t, w.config.Dir)), "nothing of a client runs where the agent does")
	require.NoError(t, os.WriteFile(w.box.path("data", "f"), []byte("x"), 0o600))
	require.NoError(t, w.Adopt(t.Context()))
	require.Equal(t, node.VerdictLive, verdict(w).Verdict)
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")), "nothing is done twice")
	require.Len(t, w.box.mounts(t, "/data"), 1)

	pid := client(t, h.socket[:len(h.socket)-len("clients.sock")])
	require.NotZero(t, pid)
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	l := <-w.died
	require.Contains(t, l.Message, "killed by signal 9", "the other side knows how it ended")
	require.Eventually(t, func() bool { return verdict(w).Works() }, 9*time.Second, 5*time.Millisecond, "the agent was told what it takes")

	require.NoError(t, os.WriteFile(w.box.path("data", "g"), []byte("last words"), 0o600))
	require.NoError(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}))
	got, err := os.ReadFile(filepath.Join(s.dir, "data", "g"))
	require.NoError(t, err)
	require.Equal(t, "last words", string(got), "written back before the client ended")
}

func TestAContainerOfClientsThatDiesIsReplacedUnderTheRunningProcess(t *testing.T) {
	s, h := newStore(t), newHouse(t)
	w := newWorld(t, h.driver)
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	h.end()
	l := <-w.died
	require.Contains(t, l.Message, "ended")
	h.start()
	require.Eventually(t, func() bool { return verdict(w).Works() }, 10*time.Second, 10*time.Millisecond)
	require.Regexp(t, "^healed once", verdict(w).Message)
	require.Len(t, w.box.mounts(t, "/data"), 1)
	require.NoError(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}))
}

// mute is a container of clients that does not tell in time how they are.
type mute struct {
	*clients.Driver
	now atomic.Bool
}

func (m *mute) Open(ctx context.Context, p mount.Process) (*os.File, error) {
	if m.now.Load() {
		return nil, context.DeadlineExceeded
	}
	return m.Driver.Open(ctx, p)
}

func TestAClientOfWhichNobodyCouldTellIsWatchedOnceSomebodyCan(t *testing.T) {
	s, h := newStore(t), newHouse(t)
	d := &mute{}
	w := newWorld(t, h.driver, func(c *node.Config) {
		d.Driver = c.Drivers[mount.DriverOSS].(*clients.Driver)
		c.Drivers[mount.DriverOSS], c.LookEvery = d, 50*time.Millisecond
	})
	d.now.Store(true)
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	require.NoError(t, unix.Kill(client(t, filepath.Dir(h.socket)), unix.SIGKILL))
	require.Eventually(t, func() bool { return !verdict(w).Works() }, 30*time.Second, 5*time.Millisecond)
	d.now.Store(false)
	require.Eventually(t, func() bool { return verdict(w).Works() }, 30*time.Second, 5*time.Millisecond)
	require.Regexp(t, "^healed once", verdict(w).Message)
}

func TestAnAgentThatIsKilledFailsNoRead(t *testing.T) {
	s, h := newStore(t), newHouse(t)
	w := newWorld(t, h.driver)
	require.Equal(t, "exit", runVictim(t, w, s, "none", "CLIENTS="+h.socket))
	require.NoError(t, os.WriteFile(w.box.path("data", "f"), []byte("x"), 0o644))
	var reads, failed atomic.Int64
	quit, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		for {
			select {
			case <-quit:
				return
			default:
			}
			reads.Add(1)
			if _, err := os.ReadFile(w.box.path("data", "f")); err != nil {
				failed.Add(1)
			}
		}
	}()
	for range 3 { // each is an agent of its own, that adopts, is told again, and is killed
		require.Equal(t, "killed", runVictim(t, w, s, "again", "CLIENTS="+h.socket))
	}
	close(quit)
	<-over
	require.NotZero(t, reads.Load())
	require.Zero(t, failed.Load(), "of %d reads", reads.Load())
	require.NoError(t, w.Adopt(t.Context()))
}

func TestAClientOfAnAgentThatWasKilledOverItIsNobodysForLong(t *testing.T) {
	s, h := newStore(t), newHouse(t)
	for _, step := range []string{"mounted", "probed", "attach", "attached"} {
		w := newWorld(t, h.driver)
		require.Equal(t, "killed", runVictim(t, w, s, "publish:"+step, "CLIENTS="+h.socket))
		require.NoError(t, w.Adopt(t.Context()))
		require.Eventually(t, func() bool { return client(t, filepath.Dir(h.socket)) == 0 }, 20*time.Second, 5*time.Millisecond, step)
		require.Empty(t, w.box.mounts(t, "/data"))
	}
}

func TestOnlyOnesOwnUserIsServedClients(t *testing.T) {
	newStore(t) // or skips
	h := newHouse(t)
	require.NoError(t, os.Chmod(h.socket, 0o666))
	for dir := filepath.Dir(h.socket); dir != "/"; dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755) //nolint:gosec // so that only who asks decides
	}
	stranger := exec.Command("/proc/self/exe", "stranger", h.socket)
	stranger.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	out, err := stranger.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "not there", "the connection was closed without an answer")
	require.Contains(t, ask(h.socket), "has ended", "root is answered")
}

// ask is what somebody hears who asks for a client.
func ask(socket string) string {
	_, err := (&clients.Driver{Socket: socket}).Open(context.Background(), mount.Process{PID: 1})
	return fmt.Sprint(err)
}
