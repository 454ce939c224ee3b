package nfs_test

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/driver/nas"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

// Both protocols, for what does not differ between the versions of one, and all versions.
var (
	both = []string{"3", "4.1"}
	all  = []string{"3", "4.0", "4.1", "4.2"}
)

// each runs f for versions, with a directory of its own on the share.
func each(t *testing.T, versions []string, f func(t *testing.T, w *world, version, dir string)) {
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			w := newWorld(t, nil)
			dir := "/v" + v
			require.NoError(t, os.MkdirAll(share+dir, 0o755))
			t.Cleanup(func() { _ = os.RemoveAll(share + dir) })
			f(t, w, v, dir)
		})
	}
}

func sub(path string) func(*mount.Mount) { return func(m *mount.Mount) { m.SubPath = path } }

func with(k, v string) func(*mount.Mount) { return func(m *mount.Mount) { m.Attributes[k] = v } }

func TestWhatIsWrittenIsOnTheServerAndThereAgain(t *testing.T) {
	each(t, all, func(t *testing.T, w *world, version, dir string) {
		began := time.Now()
		require.NoError(t, w.Publish(t.Context(), volume(version, share+dir, sub("team/a"), with("mode", "0770"))))
		t.Log("published in", time.Since(began))
		require.NoError(t, os.WriteFile(w.path("data", "f"), []byte("x"), 0o600))
		var st unix.Stat_t
		for _, d := range []string{"/team", "/team/a"} {
			require.NoError(t, unix.Stat(share+dir+d, &st))
			require.Equal(t, [3]uint32{0o770, 1000, 1000}, [3]uint32{st.Mode & 0o7777, st.Uid, st.Gid}, d)
		}
		require.Equal(t, node.Mounted, w.Mounts(t.Context())[0].Phase)
		require.NoError(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}))
		got, err := os.ReadFile(share + dir + "/team/a/f")
		require.NoError(t, err)
		require.Equal(t, "x", string(got))
		require.NoError(t, w.Publish(t.Context(), volume(version, share, sub("v"+version+"/team"))))
		got, err = os.ReadFile(w.path("data", "a", "f"))
		require.NoError(t, err)
		require.Equal(t, "x", string(got))
		var flags unix.Statfs_t
		require.NoError(t, unix.Statfs(w.path("data"), &flags))
		require.EqualValues(t, unix.ST_NOSUID|unix.ST_NODEV, flags.Flags&(unix.ST_NOSUID|unix.ST_NODEV|unix.ST_RDONLY))
	})
}

func TestReadOnlyHoldsAndMakesNothing(t *testing.T) {
	each(t, both, func(t *testing.T, w *world, version, dir string) {
		require.NoError(t, w.Publish(t.Context(), volume(version, share+dir, func(m *mount.Mount) { m.ReadOnly = true })))
		require.ErrorIs(t, os.WriteFile(w.path("data", "f"), nil, 0o600), unix.EROFS)
		require.NoError(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}))
		err := w.Publish(t.Context(), volume(version, share+dir, sub("missing"), func(m *mount.Mount) { m.ReadOnly = true }))
		require.ErrorIs(t, err, mount.ErrNotFound)
		require.NoDirExists(t, share+dir+"/missing")
	})
}

func TestALinkOnTheServerLeadsNowhere(t *testing.T) {
	each(t, both, func(t *testing.T, w *world, version, dir string) {
		require.NoError(t, os.Mkdir(share+dir+"/real", 0o755))
		require.NoError(t, os.Symlink("real", share+dir+"/link"))
		require.NoError(t, os.Symlink("/etc", share+dir+"/out"))
		for _, path := range []string{"link", "link/new", "out", "out/new"} {
			require.ErrorIs(t, w.Publish(t.Context(), volume(version, share+dir, sub(path))), mount.ErrDenied, path)
		}
		require.NoDirExists(t, share+dir+"/real/new")
		require.NoDirExists(t, "/etc/new")
	})
}

func TestAMissingPathIsMadeAndOneOfAnotherClientRefused(t *testing.T) {
	each(t, both, func(t *testing.T, w *world, version, dir string) {
		require.NoError(t, w.Publish(t.Context(), volume(version, share+dir+"/new/er", sub("x"))))
		require.DirExists(t, share+dir+"/new/er/x")
		require.NoError(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}))
		if version == "3" { // with 4 it is an empty directory of the server's root
			require.ErrorIs(t, w.Publish(t.Context(), volume(version, private)), mount.ErrDenied)
		}
	})
}

func TestAServerThatSquashesRootIsToldOf(t *testing.T) {
	each(t, both, func(t *testing.T, w *world, version, _ string) {
		err := w.Publish(t.Context(), volume(version, squash, sub("d"+version)))
		require.ErrorIs(t, err, mount.ErrDenied)
		require.ErrorContains(t, err, "squash")
		require.NoDirExists(t, squash+"/d"+version)
		require.NoError(t, w.Publish(t.Context(), volume(version, squash, sub("d"+version), with("mode", "0777"))))
		require.NoError(t, os.WriteFile(w.path("data", "f"), nil, 0o600))
	})
}

func TestAServerThatIsGoneKeepsNobodyWaiting(t *testing.T) {
	each(t, both, func(t *testing.T, w *world, version, dir string) {
		require.NoError(t, w.Publish(t.Context(), volume(version, share+dir)))
		f, err := os.Create(w.path("data", "f"))
		require.NoError(t, err)
		_, err = f.Write(make([]byte, 1<<20)) // nothing of it has to be on the server yet
		require.NoError(t, err)
		w.cut()
		began := time.Now()
		live := w.Mounts(t.Context())
		require.Equal(t, node.Failed, live[0].Phase)
		require.Contains(t, live[0].Message, "does not answer")
		t.Log("seen in", time.Since(began))

		began = time.Now()
		memory := mount.Mount{Spec: mount.Spec{Volume: "mem", Target: "/mem"}, Driver: mount.DriverTmpfs, VolumeHandle: "m", Attributes: map[string]string{"size": "1Mi"}}
		require.NoError(t, w.Publish(t.Context(), memory), "others are not in its queue")
		require.Less(t, time.Since(began), 2*time.Second)

		began = time.Now()
		another := volume(version, share, func(m *mount.Mount) { m.Volume, m.Target = "other", "/other" })
		require.ErrorIs(t, w.Publish(t.Context(), another), mount.ErrUnavailable)
		t.Log("refused in", time.Since(began))

		began = time.Now()
		require.ErrorIs(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}), node.ErrDataLoss)
		require.Less(t, time.Since(began), 12*time.Second)
		t.Log("released in", time.Since(began))
		require.Len(t, w.Mounts(t.Context()), 1)
		w.heal()
		_ = f.Close()
	})
}

// A server that takes connections and says nothing is one that the first look does not find out.
func TestAServerThatHangsIsGivenUpAtTheDeadline(t *testing.T) {
	for _, v := range both {
		w := newWorld(t, nil)
		began := time.Now()
		m := volume(v, share)
		m.Options = append(m.Options, "port=2050", "mountport=2050")
		if v != "3" {
			m.Options = m.Options[:2]
		}
		err := w.Publish(t.Context(), m)
		require.ErrorIs(t, err, mount.ErrUnavailable)
		t.Log(v, "given up in", time.Since(began), err)
		require.Less(t, time.Since(began), 12*time.Second)
	}
}

// The last one in the package: the fence stays with the network namespace, and a driver without it reaches nobody any more.
func TestBehindTheFenceOnlyTheKernelReachesTheServer(t *testing.T) {
	w := newWorld(t, nil)
	require.NoError(t, os.WriteFile(share+"/canary", nil, 0o600))
	said, err := w.steal()
	require.NoError(t, err, said)
	require.Contains(t, said, "canary", "without a fence a tenant reads the whole export")
	secret := volume("3", share, func(m *mount.Mount) { m.ReadOnly, m.Enforced = true, true })
	require.ErrorIs(t, w.Publish(t.Context(), secret), mount.ErrDenied)

	fence, err := nas.Raise()
	require.NoError(t, err)
	said, err = w.steal()
	require.Error(t, err)
	require.NotContains(t, said, "canary")
	t.Log("the tenant's client:", said, err)
	for _, v := range all {
		w := newWorld(t, fence)
		require.NoError(t, w.Publish(t.Context(), volume(v, share, func(m *mount.Mount) { m.ReadOnly, m.Enforced = true, true })), v)
		require.FileExists(t, w.path("data", "canary"))
		require.NoError(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}))
	}
}
