package faults_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/e2e/world"
)

func TestTwoHundredCreatesOnAPoolOfTwentySucceedOrSayWhenToTryAgain(t *testing.T) {
	s := beginWith(t, "../testdata/herd/set.yaml", "-max-sandboxes", "48")
	s.full(t)
	var (
		all     sync.WaitGroup
		mu      sync.Mutex
		made    []world.Sandbox
		refused []error
	)
	for i := range 200 {
		all.Go(func() {
			more := `,"timeout":300`
			if i%4 == 0 {
				more = tmpfs
			}
			sb, err := s.Create(t.Context(), "pool", more)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				refused = append(refused, err)
				return
			}
			made = append(made, sb)
		})
	}
	all.Wait()
	require.GreaterOrEqual(t, len(made), 20)
	for _, err := range refused {
		status := requireClear(t, err)
		require.Contains(t, []int{http.StatusTooManyRequests, http.StatusServiceUnavailable}, status.Status, status.Body)
		seconds, err := strconv.Atoi(status.Header.Get("Retry-After"))
		require.NoError(t, err)
		require.Positive(t, seconds)
	}
	unique := map[string]bool{}
	for _, sb := range made {
		unique[sb.ID] = true
		s.works(t, sb)
	}
	require.Len(t, unique, len(made), "no sandbox is given to two")
	ids, err := s.Listed(t.Context())
	require.NoError(t, err)
	require.Len(t, ids, len(made))
	for _, sb := range made {
		all.Go(func() {
			if err := s.Kill(t.Context(), sb); err != nil {
				t.Errorf("kill %s: %v", sb.ID, err)
			}
		})
	}
	all.Wait()
	ids, err = s.Listed(t.Context())
	require.NoError(t, err)
	require.Empty(t, ids)
	s.settled(t)
	t.Logf("%d made, %d told to come back", len(made), len(refused))
}

// full waits until the pool has its replicas.
func (s *stage) full(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return len(s.pids(t, "envd", "")) >= 20 }, 60*time.Second, 100*time.Millisecond)
	s.settled(t)
}

func TestCallersThatHangUpLeaveNoSandboxToNobody(t *testing.T) {
	s := begin(t)
	took := s.measure(t, three)
	var kept []string
	var all sync.WaitGroup
	var mu sync.Mutex
	for i := range 24 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*took/2+rand.N(10*time.Millisecond))
			defer cancel()
			if sb, err := s.Create(ctx, "pool", three); err == nil {
				mu.Lock()
				kept = append(kept, sb.ID)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	require.Eventually(t, func() bool {
		ids, err := s.Listed(t.Context())
		return err == nil && len(ids) == len(kept)
	}, 30*time.Second, 100*time.Millisecond, "sandboxes that nobody has the answer of")
	ids, err := s.Listed(t.Context())
	require.NoError(t, err)
	require.ElementsMatch(t, kept, ids)
	for _, id := range ids {
		require.NoError(t, s.Kill(t.Context(), world.Sandbox{ID: id}))
	}
	s.settled(t)
	t.Logf("%d of 24 waited long enough", len(kept))
}
