package kube_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/kube"
)

func TestAnAPIServerThatIsAwayCostsNoStock(t *testing.T) {
	w := newWorld(t)
	w.set("base", 3)
	var away atomic.Bool
	flaky := interceptor.NewClient(w.client, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch, opts ...client.PatchOption) error {
			if away.Load() {
				return &net.OpError{Op: "dial", Err: errors.New("connection refused")}
			}
			return c.Patch(ctx, obj, p, opts...)
		},
	})
	b := w.replica(func(c *kube.Config) { c.Client = flaky })
	w.stocked(b, "base", 3)
	s, err := create(t.Context(), b, order("base"))
	require.NoError(t, err)
	away.Store(true)
	for range 10 {
		_, err := b.Claim(t.Context(), order("base"))
		require.Equal(t, warmpool.Unavailable, warmpool.CodeOf(err))
		var e *warmpool.Error
		require.ErrorAs(t, err, &e)
		require.Positive(t, e.RetryAfter)
	}
	_, err = b.Get(t.Context(), s.ID)
	require.NoError(t, err, "what runs is found")
	_, err = b.Route(t.Context(), s.ID)
	require.NoError(t, err, "and reached")
	away.Store(false)
	for range 2 {
		_, err := create(t.Context(), b, order("base"))
		require.NoError(t, err)
	}
}

func TestAnIDIsHandedOutOnce(t *testing.T) {
	w := newWorld(t)
	set := w.set("base", 1)
	b := w.replica(func(c *kube.Config) { c.Cold = -1 })
	w.stocked(b, "base", 1)
	s, err := create(t.Context(), b, order("base"))
	require.NoError(t, err)
	fake := stockOf(set)
	fake.Labels[v1alpha1.LabelSandboxID] = string(s.ID)
	require.NoError(t, w.client.Create(t.Context(), fake))
	honest := stockOf(set)
	require.NoError(t, w.client.Create(t.Context(), honest))
	w.stocked(b, "base", 1)
	got, err := b.Claim(t.Context(), order("base"))
	require.NoError(t, err)
	require.Equal(t, honest.Labels[v1alpha1.LabelSandboxID], string(got.ID))
	again, err := b.Get(t.Context(), s.ID)
	require.NoError(t, err)
	require.Equal(t, s.Token.Reveal(), again.Token.Reveal(), "the older one is the one that was handed out")
}

func TestAnotherReplicaDoesNotStartWhatItHasNotClaimed(t *testing.T) {
	w := newWorld(t)
	w.set("base", 1)
	a, b := w.replica(), w.replica()
	w.stocked(a, "base", 1)
	w.stocked(b, "base", 1)
	s, err := a.Claim(t.Context(), order("base"))
	require.NoError(t, err)
	_, err = b.Start(t.Context(), s.ID, warmpool.Start{})
	require.Equal(t, warmpool.Conflict, warmpool.CodeOf(err))
	_, err = a.Start(t.Context(), s.ID, warmpool.Start{})
	require.NoError(t, err)
}

// Every replica wants the same few at once, again and again: what is lost to conflicts is time of this machine, never a pause.
func TestAStormOfConflictsEndsSoon(t *testing.T) {
	w := newWorld(t)
	w.set("base", 30)
	w.refill.Store(true)
	var all []*kube.Backend
	for range 3 {
		b := w.replica(func(c *kube.Config) { c.Cold = -1 })
		w.stocked(b, "base", 30)
		all = append(all, b)
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		took []time.Duration
	)
	for i := range 60 {
		wg.Go(func() {
			begin := time.Now()
			s, err := all[i%3].Claim(t.Context(), order("base"))
			if err != nil {
				t.Errorf("claim: %v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, time.Since(begin))
			_ = s
		})
	}
	wg.Wait()
	slices.Sort(took)
	t.Logf("60 claims over 3 replicas on 30: p50 %v, last %v", took[len(took)/2], took[len(took)-1])
	require.Len(t, took, 60)
	require.Less(t, took[len(took)-1], 20*time.Second)
}
