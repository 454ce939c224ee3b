package faults_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/e2e/faults"
)

func TestAStoreThatIsAwayFailsACreateByTheVolumesNameInTime(t *testing.T) {
	s := begin(t, "-create-deadline", "6s")
	for name, mode := range map[string]faults.Mode{"that hangs up": faults.Close, "that never answers": faults.Mute} {
		t.Run(name, func(t *testing.T) {
			s.relay.Set(mode)
			defer s.relay.Set(faults.Pass)
			began := time.Now()
			_, err := s.Create(t.Context(), "pool", three)
			answer := requireClear(t, err)
			require.Less(t, time.Since(began), 20*time.Second)
			require.GreaterOrEqual(t, answer.Status, 500)
			require.Contains(t, answer.Body, "relayed")
			require.Contains(t, answer.Body, "/data")
			require.NotContains(t, answer.Body, s.Store.Secret)
			sb, err := s.Create(t.Context(), "pool", tmpfs)
			require.NoError(t, err, "volumes elsewhere are not affected")
			require.NoError(t, s.Kill(t.Context(), sb))
			s.settled(t)
		})
	}
	sb, err := s.Create(t.Context(), "pool", three)
	require.NoError(t, err, "with the store back it works again")
	s.works(t, sb, "/mem", "/host", "/data")
}

func TestAStoreCutOffAtAnyMomentOfACreateLeavesNothing(t *testing.T) {
	s := begin(t, "-create-deadline", "3s")
	took := s.measure(t, oss)
	failed := 0
	for i, after := range steps(6, took) {
		answers := s.creates(t, 1, oss)
		<-time.After(after)
		s.relay.Set([]faults.Mode{faults.Close, faults.Mute}[i%2])
		made := answers()[0]
		s.relay.Set(faults.Pass)
		if made.err != nil {
			require.Contains(t, requireClear(t, made.err).Body, "relayed")
			failed++
			continue
		}
		s.works(t, made.sandbox, "/data") // the client finds its store again
		require.NoError(t, s.Kill(t.Context(), made.sandbox))
	}
	t.Logf("a create takes %s; %d of 6 failed", took, failed)
	s.settled(t)
}

func TestASandboxOutlivesTheStoreOfItsVolume(t *testing.T) {
	s := begin(t)
	sb, err := s.Create(t.Context(), "pool", three)
	require.NoError(t, err)
	s.works(t, sb, "/mem", "/host", "/data")
	require.NoError(t, s.Store.Crash(t.Context()))
	_, err = s.Run(t.Context(), sb, "(echo lost > /data/late; ls /data) >/dev/null 2>&1 &")
	require.NoError(t, err)
	s.works(t, sb, "/mem", "/host")
	other, err := s.Create(t.Context(), "pool", tmpfs)
	require.NoError(t, err)
	require.NoError(t, s.Kill(t.Context(), other))
	began := time.Now()
	require.NoError(t, s.Kill(t.Context(), sb))
	require.Less(t, time.Since(began), 25*time.Second)
	s.settled(t)
}

func TestAGatewayKilledWhileAStoreKeepsACreateWaitingLeavesNoClient(t *testing.T) {
	s := begin(t)
	for _, after := range []time.Duration{30 * time.Millisecond, 300 * time.Millisecond, 1500 * time.Millisecond} {
		s.settled(t)
		s.relay.Set(faults.Mute)
		answers := s.creates(t, 2, three)
		<-time.After(after)
		require.NoError(t, s.Crash(t.Context()))
		for _, made := range answers() {
			require.Error(t, made.err)
		}
		require.NoError(t, s.Serve(t.Context())) // with the store still mute
		s.settled(t)
		ids, err := s.Listed(t.Context())
		require.NoError(t, err)
		require.Empty(t, ids)
		s.relay.Set(faults.Pass)
	}
}
