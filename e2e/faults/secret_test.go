package faults_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/e2e/world"
)

// rewrite changes one of the manifests, in one step as a careful editor does.
func (s *stage) rewrite(t *testing.T, name string, change func(text string) string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(s.Manifests(), "*"+name))
	require.NoError(t, err)
	require.Len(t, found, 1)
	text, err := os.ReadFile(found[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(found[0]+".new", []byte(change(string(text))), 0o600))
	require.NoError(t, os.Rename(found[0]+".new", found[0]))
}

// edit is rewrite that returns when the gateway has read it.
func (s *stage) edit(t *testing.T, name string, change func(text string) string) {
	t.Helper()
	read := s.logged(t, "manifests read")
	s.rewrite(t, name, change)
	require.Eventually(t, func() bool { return s.logged(t, "manifests read") > read }, 15*time.Second, 10*time.Millisecond)
}

// logged counts a message in the gateway's log.
func (s *stage) logged(t *testing.T, message string) int {
	t.Helper()
	log, err := os.ReadFile(s.Log())
	require.NoError(t, err)
	return strings.Count(string(log), message)
}

// inside is where the test sees a path of a sandbox, without asking anybody.
func (s *stage) inside(t *testing.T, sb world.Sandbox, path string) string {
	t.Helper()
	pids := s.pids(t, "envd", sb.ID)
	require.NotEmpty(t, pids)
	return filepath.Join("/proc", strconv.Itoa(pids[0]), "root", path)
}

func lines(path string) int {
	text, _ := os.ReadFile(path)
	return strings.Count(string(text), "\n")
}

func TestAKeyThatIsReplacedInItsManifestIsUsedWithoutAFailedReadOrWrite(t *testing.T) {
	s := begin(t)
	first, err := s.Store.As(t.Context())
	require.NoError(t, err)
	swap := func(from, to *world.Store) func(string) string {
		return strings.NewReplacer(from.Access, to.Access, from.Secret, to.Secret).Replace
	}
	s.edit(t, "relayed.yaml", swap(s.Store, first))
	sb, err := s.Create(t.Context(), "pool", oss)
	require.NoError(t, err)
	_, err = s.Run(t.Context(), sb, `echo kept > /data/f
		(while [ ! -e /tmp/stop ]; do
			[ "$(cat /data/f)" = kept ] || echo read >> /tmp/failed
			ls /data > /dev/null || echo list >> /tmp/failed
			date > /data/w || echo write >> /tmp/failed
			echo round >> /tmp/rounds
		done) > /dev/null 2>> /tmp/failed &`)
	require.NoError(t, err)
	rounds, failed := s.inside(t, sb, "/tmp/rounds"), s.inside(t, sb, "/tmp/failed")
	goesOn := func() {
		t.Helper()
		from := lines(rounds)
		require.Eventually(t, func() bool { return lines(rounds) >= from+10 }, 30*time.Second, 10*time.Millisecond)
		text, err := os.ReadFile(failed)
		require.NoError(t, err)
		require.Empty(t, string(text))
	}
	goesOn()

	const kept, taken = "mount keeps what it has of its volume", "mount has the new credentials of its volume"
	s.edit(t, "relayed.yaml", func(text string) string { return strings.Replace(text, "akSecret: "+first.Secret, `akSecret: ""`, 1) })
	require.Eventually(t, func() bool { return s.logged(t, kept) == 1 }, 5*time.Second, 10*time.Millisecond, "half a key is no key, which is told")
	goesOn()
	require.Equal(t, 1, s.logged(t, kept), "once")
	s.edit(t, "relayed.yaml", func(text string) string { return strings.Replace(text, `akSecret: ""`, "akSecret: "+first.Secret, 1) })

	for range 2 {
		next, err := s.Store.As(t.Context())
		require.NoError(t, err)
		before, began := s.logged(t, taken), time.Now()
		s.edit(t, "relayed.yaml", swap(first, next))
		require.Eventually(t, func() bool { return s.logged(t, taken) > before }, 5*time.Second, 5*time.Millisecond, "nobody has asked for it")
		t.Logf("the new key was in use %s after the edit began", time.Since(began))
		goesOn()
		require.NoError(t, s.Store.Revoke(t.Context(), first))
		_, err = first.Read(t.Context(), "f")
		require.ErrorContains(t, err, "403", "what the mount had before is refused")
		goesOn()
		first = next
	}
	s.signal(t, syscall.SIGKILL, s.pids(t, "s3fs", sb.ID)...)
	_, err = s.Run(t.Context(), sb, "touch /tmp/stop")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		out, err := s.Run(t.Context(), sb, "cat /data/f")
		return err == nil && out == "kept\n"
	}, 15*time.Second, 50*time.Millisecond, "another client begins with the new one")

	clients := s.pids(t, "s3fs", sb.ID)
	require.NoError(t, s.Crash(t.Context()))
	next, err := s.Store.As(t.Context())
	require.NoError(t, err)
	s.rewrite(t, "relayed.yaml", swap(first, next))
	require.NoError(t, s.Serve(t.Context()))
	require.NoError(t, s.Store.Revoke(t.Context(), first))
	require.Eventually(t, func() bool {
		_, err := s.Run(t.Context(), sb, "date > /data/after")
		return err == nil
	}, 15*time.Second, 50*time.Millisecond, "what has changed while the gateway was away is taken over")
	require.Equal(t, clients, s.pids(t, "s3fs", sb.ID), "by the client that was there")
	_, err = s.Store.Read(t.Context(), "after")
	require.NoError(t, err)
	require.NoError(t, s.Kill(t.Context(), sb))
	log, err := os.ReadFile(s.Log())
	require.NoError(t, err)
	require.NotContains(t, string(log), first.Secret)
	s.settled(t)
}

func TestAVolumeWhoseClientDiedWithTheGatewayIsBackWithoutARequest(t *testing.T) {
	s := begin(t)
	sb, err := s.Create(t.Context(), "pool", three)
	require.NoError(t, err)
	_, err = s.Run(t.Context(), sb, `echo kept > /data/f
		(while sleep 0.02; do [ "$(cat /data/f)" = kept ] && echo seen >> /tmp/seen; done) > /dev/null 2>&1 &`)
	require.NoError(t, err)
	seen := s.inside(t, sb, "/tmp/seen")
	reads := func() {
		t.Helper()
		from := lines(seen)
		require.Eventually(t, func() bool { return lines(seen) > from }, 10*time.Second, 5*time.Millisecond)
	}
	// down kills the gateway and the volume's client, and waits until nobody can read the volume.
	down := func() {
		t.Helper()
		clients := s.pids(t, "s3fs", sb.ID)
		require.NotEmpty(t, clients)
		require.NoError(t, s.Crash(t.Context()))
		s.signal(t, syscall.SIGKILL, clients...)
		require.Eventually(t, func() bool {
			_, err := os.Stat(s.inside(t, sb, "/data"))
			return err != nil
		}, 5*time.Second, 5*time.Millisecond)
	}
	reads()
	for range 2 {
		down()
		began := time.Now()
		require.NoError(t, s.Serve(t.Context()))
		served := time.Now()
		reads()
		t.Logf("read again %s after the start, which took %s", time.Since(began), served.Sub(began))
		require.Eventually(t, func() bool {
			m := s.relayed(t, sb)
			return m.Phase == "Mounted" && strings.Contains(m.Message, "healed once") // a busy machine's is slow for a moment
		}, 15*time.Second, 50*time.Millisecond)
		s.works(t, sb, "/data", "/mem", "/host")
	}

	var volume string
	down()
	found, err := filepath.Glob(filepath.Join(s.Manifests(), "*relayed.yaml"))
	require.NoError(t, err)
	text, err := os.ReadFile(found[0])
	require.NoError(t, err)
	volume = string(text)
	require.NoError(t, os.Remove(found[0]))
	require.NoError(t, s.Serve(t.Context()))
	require.Eventually(t, func() bool {
		m := s.relayed(t, sb)
		return m.Phase == "Failed" && strings.HasSuffix(m.Message, "it cannot be mounted again: no PersistentVolume of that name that you may mount")
	}, 10*time.Second, 50*time.Millisecond, "what cannot be looked up any more stays down, and says why")
	_, err = s.Run(t.Context(), sb, "echo lost > /data/f")
	require.Error(t, err)
	s.works(t, sb, "/mem", "/host")
	require.NoError(t, os.WriteFile(found[0], []byte(volume), 0o600))
	reads()
	require.Eventually(t, func() bool { return s.relayed(t, sb).Phase == "Mounted" }, 15*time.Second, 50*time.Millisecond)
	require.NoError(t, s.Kill(t.Context(), sb))
	s.settled(t)
}

func (s *stage) relayed(t *testing.T, sb world.Sandbox) mounted {
	t.Helper()
	for _, m := range s.mounts(t, sb.ID) {
		if m.PVName == "relayed" {
			return m
		}
	}
	t.Fatal("the mount is not told of")
	return mounted{}
}
