package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

func TestAVolumeAppearsInTheSandboxAndNowhereElse(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.Publish(t.Context(), memory("/data/deep")))
	require.Len(t, w.box.mounts(t, "/data"), 1)
	require.NoError(t, os.WriteFile(w.box.path("data", "deep", "f"), []byte("x"), 0o600))
	require.Empty(t, leftovers(t, w.config.Dir))

	m := w.hostPath("/host")
	m.SubPath = "a/b"
	require.NoError(t, w.Publish(t.Context(), m))
	require.NoError(t, os.WriteFile(w.box.path("host", "f"), []byte("y"), 0o600))
	got, err := os.ReadFile(w.host + "/a/b/f")
	require.NoError(t, err)
	require.Equal(t, "y", string(got))
	var st unix.Stat_t
	require.NoError(t, unix.Stat(w.host+"/a", &st))
	require.EqualValues(t, 1000, st.Uid, "the sub path was made for the mount's owner")

	live := w.Mounts(t.Context())
	require.Len(t, live, 2)
	require.Equal(t, []string{"/data/deep", "/host"}, []string{live[0].Target, live[1].Target})
	require.Equal(t, []node.Phase{node.Mounted, node.Mounted}, []node.Phase{live[0].Phase, live[1].Phase})
	require.False(t, live[0].MountedAt.IsZero())

	require.NoError(t, w.UnpublishAll(t.Context()))
	require.Empty(t, w.box.mounts(t, "/data"))
	require.Empty(t, w.box.mounts(t, "/host"))
	require.Empty(t, w.Mounts(t.Context()))
	require.ErrorIs(t, os.WriteFile(w.box.path("host", "f"), nil, 0o600), nil, "root may write beneath")
}

func TestTheSameMountAgainIsOneMountAlsoAtOnce(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	errs := make([]error, 20)
	for i := range errs {
		wg.Go(func() { errs[i] = w.Publish(t.Context(), memory("/data")) })
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	require.NoError(t, w.Publish(t.Context(), memory("/data")))
	require.Len(t, w.box.mounts(t, "/data"), 1)
	for i := range errs {
		wg.Go(func() { errs[i] = w.Unpublish(t.Context(), node.Identity{VolumeHandle: "mem-handle", Target: "/data"}) })
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	require.Empty(t, w.box.mounts(t, "/data"))
}

func TestAnotherMountAtTheSameTargetIsAConflict(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.Publish(t.Context(), memory("/data")))
	for name, change := range map[string]func(*mount.Mount){
		"another volume": func(m *mount.Mount) { m.VolumeHandle = "other" },
		"read-only":      func(m *mount.Mount) { m.ReadOnly = true },
		"a sub path":     func(m *mount.Mount) { m.SubPath = "a" },
		"other options":  func(m *mount.Mount) { m.Options = []string{"noexec"} },
		"another owner":  func(m *mount.Mount) { m.Owner.UID = 7 },
	} {
		m := memory("/data")
		change(&m)
		require.ErrorIs(t, w.Publish(t.Context(), m), node.ErrConflict, name)
	}
	m := memory("/data")
	m.Secret = mount.Secret{"new": "CANARY"}
	require.NoError(t, w.Publish(t.Context(), m), "a new secret is no other mount")
	require.NoError(t, w.Unpublish(t.Context(), node.Identity{VolumeHandle: "other", Target: "/data"}), "it is not there")
	require.Len(t, w.box.mounts(t, "/data"), 1)
}

func TestTheAgentTrustsNobodyWithTheGrammarOrThePolicy(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.Publish(t.Context(), memory("/data/x")))
	for name, change := range map[string]func(*mount.Mount){
		"a reserved target":    func(m *mount.Mount) { m.Target = "/etc" },
		"a climb":              func(m *mount.Mount) { m.Target = "/data/../etc" },
		"a climbing sub path":  func(m *mount.Mount) { m.SubPath = "../x" },
		"an unknown driver":    func(m *mount.Mount) { m.Driver = "other" },
		"an option":            func(m *mount.Mount) { m.Options = []string{"suid"} },
		"below a live mount":   func(m *mount.Mount) { m.Target = "/data/x/y" },
		"above a live mount":   func(m *mount.Mount) { m.Target = "/data" },
		"the id of a live one": func(m *mount.Mount) { m.ID = memoryID },
	} {
		m := memory("/other")
		change(&m)
		var faults mount.Faults
		require.ErrorAs(t, w.Publish(t.Context(), m), &faults, name)
		require.Len(t, faults, 1, name)
		require.Zero(t, faults[0].Index, "seen from this one mount")
	}
}

var memoryID = memory("/data/x").DerivedID()

func TestReadOnlyAndTheFlagsHoldInTheSandbox(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*mount.Mount){
		"asked":          func(m *mount.Mount) { m.ReadOnly = true },
		"by mode":        func(m *mount.Mount) { m.AccessMode = mount.ReadOnlyMany },
		"by the options": func(m *mount.Mount) { m.Options = []string{"ro"} },
	} {
		m := w.hostPath("/ro")
		change(&m)
		require.NoError(t, w.Publish(t.Context(), m), name)
		require.ErrorIs(t, os.WriteFile(w.box.path("ro", "f"), nil, 0o600), unix.EROFS, name)
		var st unix.Statfs_t
		require.NoError(t, unix.Statfs(w.box.path("ro"), &st))
		require.EqualValues(t, unix.ST_NOSUID|unix.ST_NODEV|unix.ST_RDONLY, st.Flags&(unix.ST_NOSUID|unix.ST_NODEV|unix.ST_RDONLY))
		require.NoError(t, w.Unpublish(t.Context(), node.Identity{Target: "/ro"}))
	}
	m := w.hostPath("/ro")
	m.ReadOnly, m.SubPath = true, "missing"
	require.ErrorIs(t, w.Publish(t.Context(), m), mount.ErrNotFound, "nothing is made for a reader")
}

func TestAFailedPublishLeavesNothing(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, os.Symlink("/etc", w.box.path("link")))
	require.NoError(t, os.WriteFile(w.box.path("file"), nil, 0o600))
	require.NoError(t, os.MkdirAll(w.box.path("full", "x"), 0o755))
	require.NoError(t, os.Symlink("/etc", w.host+"/link"))
	for name, c := range map[string]struct {
		target, sub string
		want        error
	}{
		"the target is a link":           {"/link/x", "", mount.ErrDenied},
		"the target is a file":           {"/file", "", mount.ErrDenied},
		"the target has content":         {"/full", "", node.ErrConflict},
		"the target is a mount":          {"/old", "", node.ErrConflict},
		"the sub path is a link":         {"/data", "link", mount.ErrDenied},
		"the sub path leads through one": {"/data", "link/ssl", mount.ErrDenied},
	} {
		m := w.hostPath(c.target)
		m.SubPath = c.sub
		err := w.Publish(t.Context(), m)
		require.ErrorIs(t, err, c.want, name)
		require.NotContains(t, err.Error(), w.host, name)
		require.Empty(t, w.files(), name)
		require.Empty(t, w.Mounts(t.Context()), name)
	}
}

func TestATargetWithContentIsHiddenOnlyWhereThatIsAllowed(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, os.MkdirAll(w.box.path("full", "x"), 0o755))
	m := memory("/full")
	require.ErrorIs(t, w.Publish(t.Context(), m), node.ErrConflict)
	m.AllowNonEmpty = true
	require.NoError(t, w.Publish(t.Context(), m))
	require.NoDirExists(t, w.box.path("full", "x"))
	m.AllowNonEmpty = false
	require.NoError(t, w.Publish(t.Context(), m), "the permission is no part of what the mount is")
	m.Nodes = []string{"node-a"}
	require.NoError(t, w.Publish(t.Context(), m), "nor is where its volume is")
	require.NoError(t, w.UnpublishIdle(t.Context(), node.Identity{Target: "/full"}))
	require.DirExists(t, w.box.path("full", "x"))
}

func TestAVolumeInUseStaysUnlessItIsTakenAllTheSame(t *testing.T) {
	w := newWorld(t)
	id := node.Identity{VolumeHandle: "mem-handle", Target: "/data"}
	require.NoError(t, w.Publish(t.Context(), memory("/data")))
	f, err := os.Create(w.box.path("data", "open"))
	require.NoError(t, err)
	require.ErrorIs(t, w.UnpublishIdle(t.Context(), id), node.ErrInUse)
	require.Len(t, w.box.mounts(t, "/data"), 1)
	require.Equal(t, node.Mounted, w.Mounts(t.Context())[0].Phase, "as it was")
	require.NoError(t, w.Publish(t.Context(), memory("/data")), "and known")
	require.NoError(t, f.Close())
	require.NoError(t, w.UnpublishIdle(t.Context(), id))
	require.Empty(t, w.box.mounts(t, "/data"))
	require.NoError(t, w.UnpublishIdle(t.Context(), id), "again")

	require.NoError(t, w.Publish(t.Context(), memory("/data")))
	f, err = os.Create(w.box.path("data", "open"))
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	require.NoError(t, w.Unpublish(t.Context(), id))
	require.Empty(t, w.box.mounts(t, "/data"))
}

func TestALookIsNoUse(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.Publish(t.Context(), memory("/data")))
	f, err := os.Open(w.box.path("data"))
	require.NoError(t, err)
	time.AfterFunc(100*time.Millisecond, func() { _ = f.Close() })
	require.NoError(t, w.UnpublishIdle(t.Context(), node.Identity{Target: "/data"}))
}

func TestAMountThatVanishedIsReportedAndMadeAgain(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.Publish(t.Context(), memory("/data")))
	w.box.unmount(t, "/data")
	live := w.Mounts(t.Context())
	require.Equal(t, node.Failed, live[0].Phase)
	require.Contains(t, live[0].Message, "not in the container")
	require.NoError(t, w.Publish(t.Context(), memory("/data")))
	require.Len(t, w.box.mounts(t, "/data"), 1)
	require.Equal(t, node.Mounted, w.Mounts(t.Context())[0].Phase)
}

func TestALaterProcessAdoptsWhatLivesAndForgetsTheRest(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.Publish(t.Context(), memory("/data")))
	require.NoError(t, w.Publish(t.Context(), memory2("/gone")))
	before := w.Mounts(t.Context())
	w.box.unmount(t, "/gone")
	require.NoError(t, os.WriteFile(w.config.Dir+"/journal/junk.json", []byte("{"), 0o600))
	require.NoError(t, os.WriteFile(w.config.Dir+"/journal/cut.next", []byte("{"), 0o600))
	unread := w.config.Dir + "/journal/unread.next"
	require.NoError(t, os.Mkdir(unread, 0o700))
	require.NoError(t, os.Mkdir(w.config.Dir+"/staging/left", 0o700))
	require.NoError(t, unix.Mount("tmpfs", w.config.Dir+"/staging/left", "tmpfs", 0, ""))

	w.restart()
	err := w.Adopt(t.Context())
	require.ErrorContains(t, err, "junk.json", "what is wrong is said and set aside")
	require.ErrorContains(t, err, "unread.next", "what cannot be read is left")
	require.NoError(t, os.Remove(unread))
	require.NoError(t, os.Remove(w.config.Dir+"/journal/junk.json.broken"))
	require.Len(t, w.files(), 1)
	require.Equal(t, before[:1], w.Mounts(t.Context()))
	require.NoError(t, w.Publish(t.Context(), memory("/data")), "idempotent over a restart")
	require.Len(t, w.box.mounts(t, "/data"), 1)

	w.restart()
	w.box.end()
	w.config.Target = func(context.Context, string) (node.Target, error) { return nil, attach.ErrGone }
	w.restart()
	require.NoError(t, w.Adopt(t.Context()))
	require.Empty(t, w.Mounts(t.Context()), "mounts of a container that is gone are gone")
}

// keeper is a driver that is told which of its mounts live.
type keeper struct {
	node.Driver
	kept [][]string
}

func (k *keeper) Keep(_ context.Context, dirs []string) error {
	k.kept = append(k.kept, dirs)
	return nil
}

func TestNoVolumeIsEndedAsNobodysWhileARecordCannotBeRead(t *testing.T) {
	k := &keeper{}
	w := newWorld(t, func(c *node.Config) {
		k.Driver = c.Drivers[mount.DriverTmpfs]
		c.Drivers[mount.DriverTmpfs] = k
	})
	require.NoError(t, w.Publish(t.Context(), memory("/data")))
	record := w.files()[0]
	require.NoError(t, os.Rename(record, record+".aside"))
	require.NoError(t, os.Mkdir(record, 0o700))
	w.restart()
	require.ErrorContains(t, w.Adopt(t.Context()), "journal")
	require.Empty(t, k.kept, "the mount may live")

	require.NoError(t, os.Remove(record))
	require.NoError(t, os.Rename(record+".aside", record))
	w.restart()
	require.NoError(t, w.Adopt(t.Context()))
	require.Len(t, k.kept, 1)
	require.Len(t, k.kept[0], 1)
}

func memory2(target string) mount.Mount {
	m := memory(target)
	m.VolumeHandle, m.Volume = "mem2-handle", "mem2"
	return m
}

func TestTheJournalIsPrivateAndHoldsNoSecret(t *testing.T) {
	w := newWorld(t)
	m := memory("/data")
	m.Secret = mount.Secret{"key": "CANARY"}
	require.NoError(t, w.Publish(t.Context(), m))
	files := w.files()
	require.Len(t, files, 1)
	b, err := os.ReadFile(files[0])
	require.NoError(t, err)
	require.Contains(t, string(b), "mem-handle")
	require.NotContains(t, string(b), "CANARY")
	st, err := os.Stat(files[0])
	require.NoError(t, err)
	require.EqualValues(t, 0o600, st.Mode().Perm())
	st, err = os.Stat(w.config.Dir)
	require.NoError(t, err)
	require.EqualValues(t, 0o700, st.Mode().Perm())
}

func TestACallerThatLeavesGetsAnErrorAndNothingIsLeft(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, w.Publish(ctx, memory("/data")))
	require.Empty(t, w.files())
	require.Empty(t, w.box.mounts(t, "/data"))
}

func TestAnIncompleteConfigIsRefusedInASentence(t *testing.T) {
	_, err := node.New(node.Config{})
	require.ErrorContains(t, err, "Dir")
	_, err = node.New(node.Config{Dir: t.TempDir()})
	require.ErrorContains(t, err, "driver")
}

func TestAContainerThatCannotBeReachedIsSaidWithoutInternals(t *testing.T) {
	w := newWorld(t, func(c *node.Config) {
		c.Target = func(context.Context, string) (node.Target, error) {
			return nil, fmt.Errorf("dial /run/secret.sock: %w", attach.ErrGone)
		}
	})
	err := w.Publish(t.Context(), memory("/data"))
	require.ErrorIs(t, err, mount.ErrUnavailable)
	require.ErrorIs(t, err, attach.ErrGone)
	require.NotContains(t, err.Error(), "/run")
}

func TestNoDescriptorIsKeptForAMount(t *testing.T) {
	w := newWorld(t)
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(fds)
	}
	before := count()
	for range 20 {
		require.NoError(t, w.Publish(t.Context(), w.hostPath("/a")))
		require.NoError(t, w.Publish(t.Context(), memory("/b")))
		require.ErrorIs(t, w.Publish(t.Context(), memory2("/b")), node.ErrConflict)
		require.ErrorIs(t, w.Publish(t.Context(), memory2("/old")), node.ErrConflict)
		w.Mounts(t.Context())
	}
	require.LessOrEqual(t, count(), before, "with two mounts published")
}

func BenchmarkPublish(b *testing.B) {
	w := newWorld(b)
	volumes := map[string]mount.Mount{"tmpfs": memory("/data"), "hostpath": w.hostPath("/data")}
	if _, err := exec.LookPath("s3fs"); err == nil && os.Getenv("VERSITYGW") != "" {
		volumes["oss"] = newStore(b).volume("/data")
	}
	for name, m := range volumes {
		b.Run(name, func(b *testing.B) {
			var spent []time.Duration
			for b.Loop() {
				begin := time.Now()
				require.NoError(b, w.Publish(b.Context(), m))
				spent = append(spent, time.Since(begin))
				require.NoError(b, w.Unpublish(b.Context(), node.Identity{Target: "/data"}))
			}
			slices.Sort(spent)
			b.ReportMetric(float64(spent[len(spent)/2].Microseconds()), "us/p50")
			b.ReportMetric(float64(spent[len(spent)*99/100].Microseconds()), "us/p99")
		})
	}
}
