package kube_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/kube"
)

var (
	alice = warmpool.Principal{Team: "red", Key: "KEY-1"} // in no ID that is made at random
	bob   = warmpool.Principal{Team: "red", Key: "KEY-2"}
)

func (w *world) records() []corev1.ConfigMap {
	w.t.Helper()
	var list corev1.ConfigMapList
	require.NoError(w.t, w.client.List(context.Background(), &list, client.InNamespace(w.ns), client.MatchingLabels{v1alpha1.LabelIdempotency: "true"}))
	return list.Items
}

func TestAKeyIsRememberedOnEveryReplica(t *testing.T) {
	w := newWorld(t)
	a, b := w.replica(), w.replica()
	mine, err := a.Remember(t.Context(), alice, "key", "request")
	require.NoError(t, err)
	require.Empty(t, mine.Made)
	for _, replica := range []*kube.Backend{a, b} {
		_, err = replica.Remember(t.Context(), alice, "key", "request")
		require.Equal(t, warmpool.Conflict, warmpool.CodeOf(err), "while it is being made")
		_, err = replica.Remember(t.Context(), alice, "key", "another")
		require.Equal(t, warmpool.Mismatch, warmpool.CodeOf(err))
	}
	id := warmpool.NewID()
	require.NoError(t, mine.Keep(t.Context(), id))
	for _, replica := range []*kube.Backend{a, b} {
		again, err := replica.Remember(t.Context(), alice, "key", "request")
		require.NoError(t, err)
		require.Equal(t, id, again.Made)
		_, err = replica.Remember(t.Context(), alice, "key", "another")
		require.Equal(t, warmpool.Mismatch, warmpool.CodeOf(err))
	}
	theirs, err := b.Remember(t.Context(), bob, "key", "another")
	require.NoError(t, err, "keys are their principal's own")
	require.Empty(t, theirs.Made)

	require.NoError(t, theirs.Forget(t.Context()))
	theirs, err = a.Remember(t.Context(), bob, "key", "request")
	require.NoError(t, err, "a create that failed is forgotten")
	require.Empty(t, theirs.Made)

	for _, cm := range w.records() {
		text := cm.String()
		require.NotContains(t, text, alice.Key, "neither principal nor key are told")
		require.NotContains(t, text, `"request"`)
	}
}

func TestOneKeyIsTakenOnceByManyReplicas(t *testing.T) {
	w := newWorld(t)
	all := []*kube.Backend{w.replica(), w.replica(), w.replica()}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		taken int
	)
	for i := range 60 {
		wg.Go(func() {
			r, err := all[i%len(all)].Remember(t.Context(), alice, "key", "request")
			mu.Lock()
			defer mu.Unlock()
			if err == nil && r.Made == "" {
				taken++
				return
			}
			if warmpool.CodeOf(err) != warmpool.Conflict {
				t.Errorf("expected a conflict, got %v", err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, taken)
}

func TestWhoIsCutShortIsInheritedOnce(t *testing.T) {
	w := newWorld(t)
	w.set("base", 1)
	clk := testclock.NewFakeClock(time.Now())
	a := w.replica()
	w.stocked(a, "base", 1)
	_, err := a.Remember(t.Context(), alice, "key", "request")
	require.NoError(t, err)
	c := order("base")
	c.Principal, c.IdempotencyKey = alice, "key"
	s, err := a.Claim(t.Context(), c) // and its gateway is killed
	require.NoError(t, err)

	later := []*kube.Backend{w.replica(func(c *kube.Config) { c.Clock = clk }), w.replica(func(c *kube.Config) { c.Clock = clk })}
	_, err = later[0].Remember(t.Context(), alice, "key", "request")
	require.Equal(t, warmpool.Conflict, warmpool.CodeOf(err), "it may be alive")
	clk.Step(3 * time.Minute)
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		got []warmpool.Record
	)
	for i := range 10 {
		wg.Go(func() {
			if r, err := later[i%2].Remember(t.Context(), alice, "key", "request"); err == nil {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, r)
			}
		})
	}
	wg.Wait()
	require.Len(t, got, 1)
	require.Empty(t, got[0].Made)
	require.Eventually(t, func() bool { return w.object(s.ID) == nil }, 10*time.Second, 20*time.Millisecond, "what it had claimed is ended")
	require.NoError(t, got[0].Keep(t.Context(), warmpool.NewID()))
}

func TestWhoWasInheritedFromCannotKeepAnything(t *testing.T) {
	w := newWorld(t)
	clk := testclock.NewFakeClock(time.Now())
	a, b := w.replica(), w.replica(func(c *kube.Config) { c.Clock = clk })
	slow, err := a.Remember(t.Context(), alice, "key", "request")
	require.NoError(t, err)
	clk.Step(3 * time.Minute)
	heir, err := b.Remember(t.Context(), alice, "key", "request")
	require.NoError(t, err)
	require.Error(t, slow.Keep(t.Context(), warmpool.NewID()))
	require.NoError(t, slow.Forget(t.Context()), "it is not its own any more")
	require.NoError(t, heir.Keep(t.Context(), warmpool.NewID()))
}

func TestRecordsAreKeptForADay(t *testing.T) {
	w := newWorld(t)
	clk := testclock.NewFakeClock(time.Now())
	b := w.replica(func(c *kube.Config) { c.Clock = clk })
	r, err := b.Remember(t.Context(), alice, "old", "request")
	require.NoError(t, err)
	require.NoError(t, r.Keep(t.Context(), warmpool.NewID()))
	clk.Step(23 * time.Hour)
	r, err = b.Remember(t.Context(), alice, "new", "request")
	require.NoError(t, err)
	require.NoError(t, r.Keep(t.Context(), warmpool.NewID()))
	again, err := b.Remember(t.Context(), alice, "old", "request")
	require.NoError(t, err)
	require.NotEmpty(t, again.Made)
	clk.Step(2 * time.Hour)
	sweeper := kube.Records{Client: w.client, Namespace: w.ns, Log: slog.New(slog.DiscardHandler), Clock: clk}
	require.NoError(t, w.client.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: w.meta("somebodys")}))
	n, err := sweeper.Sweep(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Len(t, w.records(), 1)
	clk.Step(24 * time.Hour)
	fresh, err := b.Remember(t.Context(), alice, "new", "another")
	require.NoError(t, err, "a record that is too old does not count, though nobody has swept it")
	require.Empty(t, fresh.Made)
}
