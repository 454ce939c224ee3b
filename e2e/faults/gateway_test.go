package faults_test

import (
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/e2e/world"
)

// create is a create request under way: what it answered, and whether that was a sandbox.
type create struct {
	sandbox world.Sandbox
	err     error
}

// creates begins n and returns a function that waits for their answers.
func (s *stage) creates(t *testing.T, n int, more string) func() []create {
	t.Helper()
	out := make([]create, n)
	var all sync.WaitGroup
	for i := range out {
		all.Go(func() { out[i].sandbox, out[i].err = s.Create(t.Context(), "pool", more) })
	}
	return func() []create {
		all.Wait()
		return out
	}
}

func TestAGatewayKilledAtAnyMomentOfACreateLeavesNoHalfSandboxAndLosesNone(t *testing.T) {
	s := begin(t)
	old, err := s.Create(t.Context(), "pool", strings.Replace(three, `"timeout":120`, `"timeout":600`, 1))
	require.NoError(t, err)
	s.works(t, old, "/mem", "/host", "/data")
	s.settled(t)
	took := s.measure(t, three)
	delays := steps(8, took)
	for range 3 {
		delays = append(delays, rand.N(took))
	}
	answered := 0
	for _, after := range delays {
		s.settled(t)
		answers := s.creates(t, 2, three)
		<-time.After(after)
		require.NoError(t, s.Crash(t.Context()))
		made := answers()
		require.NoError(t, s.Serve(t.Context()))
		s.settled(t)
		known := []string{old.ID}
		for _, m := range made {
			if m.err == nil {
				s.works(t, m.sandbox, "/mem", "/host", "/data")
				known = append(known, m.sandbox.ID)
				answered++
			}
		}
		s.works(t, old, "/mem", "/host", "/data")
		ids, err := s.Listed(t.Context())
		require.NoError(t, err)
		require.Subset(t, ids, known)
		for _, id := range ids {
			if id == old.ID {
				continue
			}
			// One whose answer was on its way when the gateway died is whole, and ends by its deadline.
			for _, m := range s.mounts(t, id) {
				require.Equal(t, "Mounted", m.Phase, "%s after %s: %s", id, after, m.Message)
			}
			require.NoError(t, s.Kill(t.Context(), world.Sandbox{ID: id}))
		}
	}
	t.Logf("a create takes %s; %d of %d creates were answered before the kill", took, answered, 2*len(delays))
	require.Less(t, answered, 2*len(delays), "no kill hit a create")
}

func TestAGatewayKilledWhileItEndsSandboxesEndsThemLater(t *testing.T) {
	s := begin(t)
	for _, after := range []time.Duration{0, 10 * time.Millisecond, 40 * time.Millisecond, 120 * time.Millisecond} {
		sb, err := s.Create(t.Context(), "pool", three)
		require.NoError(t, err)
		s.works(t, sb, "/mem", "/host", "/data")
		done := make(chan error, 1)
		go func() { done <- s.Kill(t.Context(), sb) }()
		<-time.After(after)
		require.NoError(t, s.Crash(t.Context()))
		killed := <-done
		require.NoError(t, s.Serve(t.Context()))
		if killed == nil {
			require.False(t, s.listed(t, sb.ID), "what was answered as killed does not come back")
		}
		s.settled(t)
		if s.listed(t, sb.ID) {
			s.works(t, sb)
			require.NoError(t, s.Kill(t.Context(), sb))
		}
	}
	s.settled(t)
}

func TestWhatExpiresWhileTheGatewayIsDownIsReapedAtTheNextStart(t *testing.T) {
	s := begin(t)
	short, err := s.Create(t.Context(), "pool", strings.Replace(three, `"timeout":120`, `"timeout":2`, 1))
	require.NoError(t, err)
	long, err := s.Create(t.Context(), "pool", tmpfs)
	require.NoError(t, err)
	key := s.Key
	require.NoError(t, s.Crash(t.Context()))
	<-time.After(2 * time.Second)
	require.NoError(t, s.Serve(t.Context()))
	require.Equal(t, key, s.Key)
	require.False(t, s.listed(t, short.ID))
	s.works(t, long, "/data")
	s.settled(t)

	// And one that was adopted still ends in time.
	status, body, err := s.Call(t.Context(), http.MethodPost, "/sandboxes/"+long.ID+"/timeout", `{"timeout":2}`)
	require.NoError(t, err)
	require.Equal(t, http.StatusNoContent, status, string(body))
	s.crash(t)
	require.Eventually(t, func() bool { return !s.listed(t, long.ID) }, 10*time.Second, 50*time.Millisecond)
	s.settled(t)
}

func TestAnInterruptedGatewayLeavesSandboxesRunningAndTakesThemUpAgain(t *testing.T) {
	s := begin(t)
	sb, err := s.Create(t.Context(), "pool", three)
	require.NoError(t, err)
	answers := s.creates(t, 2, three) // that are under way do not keep it from stopping
	require.NoError(t, s.Stop(t.Context()))
	_ = answers()
	out, err := os.ReadFile(strings.TrimSuffix(s.Log(), ".log") + ".out")
	require.NoError(t, err)
	require.Contains(t, string(out), "sandgate clean -state "+s.State(), "it must say how to end what lives on")
	require.NotEmpty(t, s.pids(t, "envd", sb.ID))
	require.NoError(t, s.Serve(t.Context()))
	s.works(t, sb, "/mem", "/host", "/data")
	s.settled(t)
}

func TestABrokenManifestChangesNothingUntilItIsMended(t *testing.T) {
	s := begin(t)
	file := filepath.Join(s.Manifests(), "more.yaml")
	require.NoError(t, os.WriteFile(file, []byte("apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: more}\nspec: {hostPath: {path: 17}}\n"), 0o600))
	require.Eventually(t, func() bool {
		log, err := os.ReadFile(s.Log())
		return err == nil && strings.Contains(string(log), "the last good ones stay") && strings.Contains(string(log), "more.yaml:4")
	}, 15*time.Second, 100*time.Millisecond, "file and line are named")
	sb, err := s.Create(t.Context(), "pool", tmpfs)
	require.NoError(t, err)
	s.works(t, sb, "/data")
	more := `,"timeout":60,"volumeMounts":[{"name":"more","path":"/data"}]`
	_, err = s.Create(t.Context(), "pool", more)
	require.Equal(t, http.StatusBadRequest, requireClear(t, err).Status)

	mended := "apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: more}\nspec:\n  accessModes: [ReadWriteMany]\n  capacity: {storage: 1Gi}\n  hostPath: {path: " + s.Shared + "}\n"
	require.NoError(t, os.WriteFile(file, []byte(mended), 0o600))
	require.Eventually(t, func() bool {
		sb, err = s.Create(t.Context(), "pool", more)
		return err == nil
	}, 15*time.Second, 200*time.Millisecond)
	s.works(t, sb, "/data")
}
