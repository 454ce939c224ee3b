package node_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"

	"github.com/sandgate-dev/sandgate/csiagent/driver/oss"
	"github.com/sandgate-dev/sandgate/csiagent/driver/oss/osstest"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

// leap is a clock that can be put forward; its timers run in real time.
type leap struct {
	clock.RealClock
	by atomic.Int64
}

func (l *leap) Now() time.Time                  { return time.Now().Add(time.Duration(l.by.Load())) }
func (l *leap) Since(t time.Time) time.Duration { return l.Now().Sub(t) }
func (l *leap) forward(d time.Duration)         { l.by.Add(int64(d)) }

func verdict(w *world) node.Health { return w.Mounts(w.t.Context())[0].Health }

// heals waits until the volume works and has another client than pid.
func (w *world) heals(pid int) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		now := client(w.t, w.config.Dir)
		return now != 0 && now != pid && verdict(w).Works()
	}, 10*time.Second, 5*time.Millisecond, "%v\n%s", verdict(w), w.log)
}

func TestAKilledClientIsReplacedUnderTheRunningProcess(t *testing.T) {
	s, w := newStore(t), newWorld(t)
	m := s.volume("/data")
	m.SubPath = "team/a"
	require.NoError(t, w.Publish(t.Context(), m))
	require.NoError(t, os.WriteFile(w.box.path("data", "f"), []byte("x"), 0o600))
	pid := client(t, w.config.Dir)
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	l := <-w.died
	require.Equal(t, node.VerdictDead, l.Verdict)
	require.Contains(t, l.Message, "killed by signal 9")
	w.heals(pid)
	got, err := os.ReadFile(w.box.path("data", "f"))
	require.NoError(t, err)
	require.Equal(t, "x", string(got))
	require.Len(t, w.box.mounts(t, "/data"), 1)
	require.Regexp(t, `^healed once, last at \S+: .*killed by signal 9`, verdict(w).Message)
	require.NoError(t, w.Publish(t.Context(), m), "and is known")
	require.NoError(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}))
}

func TestAKilledOssfsIsReplacedUnderTheRunningProcess(t *testing.T) {
	program := os.Getenv("OSSFS")
	if program == "" {
		var err error
		if program, err = exec.LookPath("ossfs"); err != nil {
			t.Skip("needs ossfs: set OSSFS to the program, which no package registry has; see docs/backends.md")
		}
	}
	s, bin := newStore(t), t.TempDir()
	require.NoError(t, os.Symlink(program, filepath.Join(bin, "ossfs")))
	behind, err := url.Parse("http://" + s.address)
	require.NoError(t, err)
	front := osstest.New(behind, storeKey, storeSecret)
	front.Admit(osstest.Key{ID: storeKey, Secret: storeSecret})
	server := httptest.NewServer(front)
	defer server.Close()
	w := newWorld(t, func(c *node.Config) {
		c.Drivers[mount.DriverOSS] = oss.New(oss.Config{Path: []string{bin}, Guard: local.Guard, Logger: c.Logger})
	})
	m := s.volume("/data")
	m.Attributes["url"], m.SubPath = server.URL, "team/a"
	require.NoError(t, w.Publish(t.Context(), m))
	require.NoError(t, os.WriteFile(w.box.path("data", "f"), []byte("x"), 0o600))
	for range 3 {
		bare, pid := bareness(w), client(t, w.config.Dir)
		begin := time.Now()
		require.NoError(t, unix.Kill(pid, unix.SIGKILL))
		require.Equal(t, node.VerdictDead, (<-w.died).Verdict)
		w.heals(pid)
		t.Logf("healed after %v", time.Since(begin))
		require.Zero(t, bare(), "dead, and then alive; nothing in between")
	}
	got, err := os.ReadFile(w.box.path("data", "f"))
	require.NoError(t, err)
	require.Equal(t, "x", string(got))
	require.Len(t, w.box.mounts(t, "/data"), 1)
	require.Regexp(t, `^healed 3 times, last at \S+: .*killed by signal 9`, verdict(w).Message)
	require.Empty(t, front.Refused())
	require.NoError(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}))
}

func TestALaterAgentCannotReplaceAClientUntilItIsToldAgain(t *testing.T) {
	s, w := newStore(t), newWorld(t)
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	require.NoError(t, os.WriteFile(w.box.path("data", "f"), nil, 0o600))
	w.restart()
	require.NoError(t, w.Adopt(t.Context()))
	pid := client(t, w.config.Dir)
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	<-w.died
	require.Equal(t, node.VerdictDead, verdict(w).Verdict, "its credentials are in no journal")
	bare := bareness(w)
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	require.Zero(t, bare(), "dead, and then alive; nothing in between")
	require.Equal(t, node.VerdictLive, verdict(w).Verdict)
	require.Len(t, w.box.mounts(t, "/data"), 1)
}

func TestAMountWhoseClientDiedWithItsAgentIsRefreshedWhereItIsAndNowhereElse(t *testing.T) {
	s, w := newStore(t), newWorld(t)
	m := s.volume("/data")
	require.NoError(t, w.Publish(t.Context(), m))
	require.NoError(t, os.WriteFile(w.box.path("data", "f"), []byte("x"), 0o600))
	pid := client(t, w.config.Dir)
	w.restart()
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	require.Eventually(t, func() bool { return client(t, w.config.Dir) == 0 }, 20*time.Second, 5*time.Millisecond)
	require.NoError(t, w.Adopt(t.Context()))
	known := w.Known()
	require.Len(t, known, 1)
	require.Equal(t, node.Failed, known[0].Phase)
	require.True(t, known[0].Served)
	require.NoError(t, w.Refresh(t.Context(), m))
	require.Equal(t, node.Mounted, w.Known()[0].Phase)
	got, err := os.ReadFile(w.box.path("data", "f"))
	require.NoError(t, err)
	require.Equal(t, "x", string(got))
	require.Regexp(t, `^healed once, last at \S+: the client that serves this volume has ended$`, verdict(w).Message)
	require.Equal(t, verdict(w), w.Known()[0].Health)
	pid = client(t, w.config.Dir)
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	w.heals(pid) // by itself: it has been told

	require.NoError(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}))
	for _, m := range []mount.Mount{m, memory("/data")} {
		require.NoError(t, w.Refresh(t.Context(), m), "what is not there is not brought")
		require.Empty(t, w.box.mounts(t, "/data"))
	}
	require.NoError(t, w.Publish(t.Context(), memory("/data")))
	require.NoError(t, w.Refresh(t.Context(), m), "and another volume at its place is left alone")
	require.Len(t, w.box.mounts(t, "/data"), 1)
	require.False(t, w.Known()[0].Served)
}

// bareness counts how often the bare mount point was there: it refuses what a dead volume does not even hear.
func bareness(w *world) (stop func() int) {
	quit, count := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-quit:
				count <- n
				return
			default:
			}
			if _, err := os.Stat(w.box.path("data", "f")); os.IsNotExist(err) {
				n++
			}
		}
	}()
	return func() int { close(quit); return <-count }
}

func TestAClientThatDiesAgainAndAgainRestsAndSaysWhy(t *testing.T) {
	now := &leap{}
	s, w := newStore(t), newWorld(t, func(c *node.Config) { c.Clock = now })
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	for range 4 {
		pid := client(t, w.config.Dir)
		require.NoError(t, unix.Kill(pid, unix.SIGKILL))
		<-w.died
		w.heals(pid)
	}
	require.NoError(t, unix.Kill(client(t, w.config.Dir), unix.SIGKILL))
	<-w.died
	require.Eventually(t, func() bool { return len(verdict(w).Message) > 4 && verdict(w).Message[:4] == "dead" }, 9*time.Second, 5*time.Millisecond)
	require.Regexp(t, `^dead: its client died 5 times in 1 min: .*killed by signal 9`, verdict(w).Message)
	err := w.Publish(t.Context(), s.volume("/data"))
	require.ErrorIs(t, err, mount.ErrUnavailable)
	require.ErrorContains(t, err, "died 5 times in 1 min")
	now.forward(time.Minute)
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	require.Equal(t, node.VerdictLive, verdict(w).Verdict)
}

func TestAClientWhoseStoreIsAwayIsReplacedOnceItIsBack(t *testing.T) {
	s, w := newStore(t), newWorld(t)
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	require.NoError(t, s.process.Process.Kill())
	_ = s.process.Wait()
	pid := client(t, w.config.Dir)
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	<-w.died
	require.Eventually(t, func() bool {
		h := verdict(w)
		return h.Verdict == node.VerdictDead && regexp.MustCompile("killed by signal 9.*another one cannot be started yet.*nobody answers").MatchString(h.Message)
	}, 9*time.Second, 10*time.Millisecond, verdict(w))
	s.start(t)
	w.heals(pid)
}

func TestAHungClientIsReplacedAfterItsTimeUnlessTheStoreIsToBlame(t *testing.T) {
	now := &leap{}
	short := func(c *node.Config) {
		c.Clock, c.LookEvery = now, 50*time.Millisecond
	}
	s, w := newStore(t), newWorld(t, short)
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	pid := client(t, w.config.Dir)
	require.NoError(t, s.process.Process.Signal(unix.SIGSTOP))
	require.NoError(t, unix.Kill(pid, unix.SIGSTOP))
	reader := make(chan error, 1)
	go func() { _, err := os.ReadDir(w.box.path("data")); reader <- err }()
	require.Eventually(t, func() bool { return verdict(w).Verdict == node.VerdictHung }, 10*time.Second, 10*time.Millisecond)
	require.Contains(t, verdict(w).Message, "does not answer")
	now.forward(31 * time.Second)
	require.Never(t, func() bool { return client(t, w.config.Dir) != pid && len(w.box.mounts(t, "/data")) == 0 }, 500*time.Millisecond, 20*time.Millisecond)
	require.True(t, alive(pid), "what it has not uploaded yet would be lost for nothing")
	began := time.Now()
	require.NoError(t, s.process.Process.Signal(unix.SIGCONT))
	require.Eventually(t, func() bool { return !alive(pid) && verdict(w).Works() }, 60*time.Second, 20*time.Millisecond, w.log)
	t.Logf("replaced %v after its store went on", time.Since(began))
	require.Error(t, <-reader, "who waited for it goes on")
	require.Contains(t, verdict(w).Message, "did not answer")
	require.Len(t, w.box.mounts(t, "/data"), 1)
}

func alive(pid int) bool { return unix.Kill(pid, 0) == nil }

func TestASlowVolumeWorksAndIsSaidToBeSlow(t *testing.T) {
	w := newWorld(t, func(c *node.Config) {
		c.SlowAfter, c.Probe = time.Millisecond, sluggish{c.Probe}
	})
	s := newStore(t)
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	l := w.Mounts(t.Context())[0]
	require.Equal(t, []any{node.VerdictSlow, node.Mounted, "slow: a read takes longer than 1ms"}, []any{l.Verdict, l.Phase, l.Message})
}

type sluggish struct{ node.Probe }

func (s sluggish) Read(ctx context.Context, dir *os.File, fstype string) error {
	tick := time.NewTimer(5 * time.Millisecond) // a store that takes its time
	defer tick.Stop()
	<-tick.C
	return s.Probe.Read(ctx, dir, fstype)
}

// rounds is how often a drill is done: RECOVERY=n for n times.
func rounds(t *testing.T, usual int) int {
	t.Helper()
	if n := os.Getenv("RECOVERY"); n != "" {
		_, err := fmt.Sscan(n, &usual)
		require.NoError(t, err)
	}
	return usual
}

// spread is what is told of a drill.
func spread(took []time.Duration) string {
	slices.Sort(took)
	return fmt.Sprintf("p50 %v, p95 %v, max %v of %d", took[len(took)/2].Round(time.Millisecond), took[len(took)*95/100].Round(time.Millisecond),
		took[len(took)-1].Round(time.Millisecond), len(took))
}

// TestRecovery prints how long a volume is gone when its client is killed with a reader going on.
func TestRecovery(t *testing.T) {
	rounds := rounds(t, 5)
	now := &leap{}
	s, w := newStore(t), newWorld(t, func(c *node.Config) { c.Clock = now })
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	require.NoError(t, os.WriteFile(w.box.path("data", "f"), []byte("x"), 0o644))
	var took []time.Duration
	failed, reads := 0, 0
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range rounds {
		pid := client(t, w.config.Dir)
		began := time.Now()
		require.NoError(t, unix.Kill(pid, unix.SIGKILL))
		broken := false
		for good := 0; good < 20; {
			_, err := os.ReadFile(w.box.path("data", "f"))
			reads++
			switch {
			case err != nil:
				broken, good = true, 0
				failed++
			case broken:
				if good == 0 {
					took = append(took, time.Since(began))
				}
				good++
			}
			<-tick.C
			require.Less(t, time.Since(began), 30*time.Second, w.log)
		}
		<-w.died
		now.forward(2 * time.Minute) // else deaths add up
	}
	require.Len(t, took, rounds)
	t.Logf("recovery of a killed FUSE client: %s; %d of %d reads, one a millisecond, failed", spread(took), failed, reads)
}

// TestRecoveryOfAStoppedClient prints when a client that is stopped is told of, and how long after its time another one answers.
func TestRecoveryOfAStoppedClient(t *testing.T) {
	now := &leap{}
	s, w := newStore(t), newWorld(t, func(c *node.Config) {
		p := prober()
		p.Timeout = probe.DefaultTimeout
		c.Clock, c.LookEvery, c.Probe = now, 50*time.Millisecond, p
	})
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	require.NoError(t, os.WriteFile(w.box.path("data", "f"), []byte("x"), 0o644))
	var told, back []time.Duration
	for range rounds(t, 3) {
		pid := client(t, w.config.Dir)
		began := time.Now()
		require.NoError(t, unix.Kill(pid, unix.SIGSTOP))
		require.Eventually(t, func() bool { return verdict(w).Verdict == node.VerdictHung }, 30*time.Second, time.Millisecond, w.log)
		told = append(told, time.Since(began))
		served := make(chan struct{})
		go func() { // waits for the stopped one, and then for another
			for {
				if _, err := os.ReadFile(w.box.path("data", "f")); err == nil {
					close(served)
					return
				}
			}
		}()
		now.forward(31 * time.Second)
		began = time.Now()
		<-served
		back = append(back, time.Since(began))
		w.heals(pid)
		require.Eventually(t, func() bool { return !alive(pid) }, 10*time.Second, 5*time.Millisecond)
		now.forward(2 * time.Minute) // else deaths add up
	}
	t.Logf("a stopped FUSE client: told of after %s; after its time a reader has another one after %s", spread(told), spread(back))
}
