package kube_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/sandgate-dev/sandgate/injector/envd/tunnel"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/kube"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest/apiserver"
)

// frozen is a replica whose informer has stopped: it knows what there was then.
func (w *world) frozen(change ...func(*kube.Config)) *kube.Backend {
	w.t.Helper()
	c, err := cache.New(w.rest, cache.Options{Scheme: apiserver.Scheme(), DefaultNamespaces: map[string]cache.Config{w.ns: {}}})
	require.NoError(w.t, err)
	ctx, stop := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { _ = c.Start(ctx) })
	b := w.replica(append(change, func(cfg *kube.Config) { cfg.Cache = c })...)
	require.Eventually(w.t, func() bool { _, err := b.Templates(w.t.Context()); return err == nil }, 10*time.Second, time.Millisecond)
	w.t.Cleanup(func() { stop(); work.Wait() })
	w.freeze = func() { stop(); work.Wait() }
	return b
}

func TestASandboxIsFoundOnEveryReplicaAtOnce(t *testing.T) {
	w := newWorld(t)
	w.set("base", 1)
	a, b := w.replica(), w.frozen()
	w.stocked(a, "base", 1)
	w.stocked(b, "base", 1)
	w.freeze()
	warm, err := create(t.Context(), a, order("base"))
	require.NoError(t, err)
	got, err := b.Get(t.Context(), warm.ID)
	require.NoError(t, err, "one that was known as stock")
	require.Equal(t, warm.Token.Reveal(), got.Token.Reveal())
}

func TestAColdSandboxIsFoundOnEveryReplicaAtOnce(t *testing.T) {
	w := newWorld(t)
	w.set("base", 0)
	a, b := w.replica(), w.frozen()
	w.freeze()
	s, err := create(t.Context(), a, order("base"))
	require.NoError(t, err)
	_, err = b.Get(t.Context(), s.ID)
	require.NoError(t, err)
	at := time.Now().Add(time.Hour)
	moved, err := b.SetDeadline(t.Context(), s.ID, warmpool.Deadline{At: at, OnlyLater: true})
	require.NoError(t, err)
	require.WithinDuration(t, at, moved.EndAt, 2*time.Second)
	require.NoError(t, b.Release(t.Context(), s.ID))
	require.Eventually(t, func() bool { _, err := a.Get(t.Context(), s.ID); return warmpool.CodeOf(err) == warmpool.NotFound }, 10*time.Second, 5*time.Millisecond)
}

func TestUnknownIDsCostTheAPIServerLittle(t *testing.T) {
	w := newWorld(t)
	var lists atomic.Int32
	counting := interceptor.NewClient(w.client, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			lists.Add(1)
			return c.List(ctx, list, opts...)
		},
	})
	b := w.replica(func(c *kube.Config) { c.Client = counting })
	id := warmpool.NewID()
	for range 20 {
		_, err := b.Get(t.Context(), id)
		require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))
	}
	require.Equal(t, int32(1), lists.Load(), "one that is asked for again")
	limited := 0
	for range 400 {
		if _, err := b.Get(t.Context(), warmpool.NewID()); warmpool.CodeOf(err) == warmpool.Unavailable {
			limited++
		}
	}
	require.Positive(t, limited, "many that are asked for once")
	_, err := b.Get(t.Context(), "no-id")
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))
}

func TestAnAPIServerThatDoesNotAnswerIsNotANotFound(t *testing.T) {
	w := newWorld(t)
	down := interceptor.NewClient(w.client, interceptor.Funcs{
		List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error {
			return io.ErrUnexpectedEOF
		},
	})
	b := w.replica(func(c *kube.Config) { c.Client = down })
	_, err := b.Get(t.Context(), warmpool.NewID())
	require.Equal(t, warmpool.Unavailable, warmpool.CodeOf(err))
}

func TestADeadlineIsMovedThoughOthersWriteToo(t *testing.T) {
	w := newWorld(t)
	w.set("base", 1)
	var spoiled atomic.Int32
	busy := interceptor.NewClient(w.client, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch, opts ...client.PatchOption) error {
			if n := spoiled.Add(1); n > 1 && n < 5 {
				other := &v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: obj.GetNamespace(), Name: obj.GetName()}}
				body := `{"metadata":{"annotations":{"n":"` + strconv.Itoa(int(n)) + `"}}}`
				if err := c.Patch(ctx, other, client.RawPatch(types.MergePatchType, []byte(body))); err != nil {
					return err
				}
			}
			return c.Patch(ctx, obj, p, opts...)
		},
	})
	b := w.replica(func(c *kube.Config) { c.Client = busy })
	w.stocked(b, "base", 1)
	s, err := create(t.Context(), b, order("base"))
	require.NoError(t, err)
	at := time.Now().Add(time.Hour)
	moved, err := b.SetDeadline(t.Context(), s.ID, warmpool.Deadline{At: at, OnlyLater: true})
	require.NoError(t, err)
	require.WithinDuration(t, at, moved.EndAt, 2*time.Second)
}

func TestARouteLeadsToThePodAndEndsWithIt(t *testing.T) {
	w := newWorld(t)
	w.set("base", 1)
	b := w.replica()
	w.stocked(b, "base", 1)
	s, err := create(t.Context(), b, order("base"))
	require.NoError(t, err)
	r, err := b.Route(t.Context(), s.ID)
	require.NoError(t, err)
	c, err := r.Dial(t.Context(), v1alpha1.EnvdPort)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	_, err = r.Dial(t.Context(), v1alpha1.AgentPort)
	require.Error(t, err, "the agent's port is not the owner's")
	same, err := b.Route(t.Context(), s.ID)
	require.NoError(t, err)
	require.Equal(t, r.Gone, same.Gone)

	sb := w.object(s.ID)
	w.setStatus(t.Context(), sb, func(sb *v1alpha1.Sandbox) { sb.Status.SandboxIP = "127.0.0.1" })
	requireClosed(t, r.Gone, "the pod has another address")
	moved, err := b.Route(t.Context(), s.ID)
	require.NoError(t, err)
	require.NoError(t, b.Release(t.Context(), s.ID))
	requireClosed(t, moved.Gone, "the sandbox was released")
	_, err = b.Route(t.Context(), s.ID)
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))
}

func TestARouteReachesWhatListensOnTheLoopbackOnly(t *testing.T) {
	w := newWorld(t)
	w.set("base", 1)
	b := w.replica()
	w.stocked(b, "base", 1)
	s, err := create(t.Context(), b, order("base"))
	require.NoError(t, err)
	r, err := b.Route(t.Context(), s.ID)
	require.NoError(t, err)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "inside") }))
	port := uint16(service.Listener.Addr().(*net.TCPAddr).Port)
	through := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return r.Dial(ctx, port) }}}
	res, err := through.Get("http://sandbox/") //nolint:noctx // of the test
	require.NoError(t, err)
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, "inside", string(text))
	through.CloseIdleConnections()
	service.Close()
	_, err = r.Dial(t.Context(), port)
	require.ErrorIs(t, err, tunnel.ErrRefused)
}

func TestARouteEndsAtTheDeadlineAndWithAFailure(t *testing.T) {
	w := newWorld(t)
	w.set("base", 2)
	b := w.replica()
	w.stocked(b, "base", 2)
	s, err := create(t.Context(), b, order("base"))
	require.NoError(t, err)
	r, err := b.Route(t.Context(), s.ID)
	require.NoError(t, err)
	_, err = b.SetDeadline(t.Context(), s.ID, warmpool.Deadline{At: time.Now()})
	require.NoError(t, err)
	requireClosed(t, r.Gone, "its time is over")

	s, err = create(t.Context(), b, order("base"))
	require.NoError(t, err)
	r, err = b.Route(t.Context(), s.ID)
	require.NoError(t, err)
	w.setStatus(t.Context(), w.object(s.ID), func(sb *v1alpha1.Sandbox) {
		sb.Status.Phase, sb.Status.Message = v1alpha1.PhaseFailed, "out of memory"
	})
	requireClosed(t, r.Gone, "it has failed")
	got, err := b.Get(t.Context(), s.ID)
	require.NoError(t, err)
	require.Equal(t, warmpool.Failed, got.State)
	require.Equal(t, "out of memory", got.Reason)
}

func requireClosed(t *testing.T, gone <-chan struct{}, why string) {
	t.Helper()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Fatal(why)
	}
}

func TestWhatTheControllerKnowsOfMountsIsTold(t *testing.T) {
	w := newWorld(t)
	sb := stockOf(w.set("base", 0))
	sb.OwnerReferences = nil // somebody's own, with a claim
	sb.Spec.Claim = &v1alpha1.Claim{Principal: v1alpha1.Principal{Team: "red"}, Nonce: "n", Time: metav1.NewMicroTime(time.Now().Add(-time.Hour))}
	sb.Spec.Mounts = []v1alpha1.Mount{{ID: "a", Volume: "pv", Path: "/a"}, {ID: "b", Volume: "pv", Path: "/b"}}
	require.NoError(t, w.client.Create(t.Context(), sb))
	b := w.replica()
	id := warmpool.ID(sb.Labels[v1alpha1.LabelSandboxID])
	got, err := b.Get(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, 9999, got.EndAt.Year(), "it ends when somebody deletes it")
	require.Equal(t, warmpool.MountPending, got.Mounts[0].Phase)
	at := metav1.NewTime(time.Now().Truncate(time.Second))
	w.setStatus(t.Context(), sb, func(sb *v1alpha1.Sandbox) {
		sb.Status.Mounts = []v1alpha1.MountStatus{
			{ID: "a", Source: "pv", Path: "/a", Phase: "Mounted", MountedAt: &at},
			{ID: "b", Source: "pv", Path: "/b", Phase: "Failed", Verdict: "dead", Message: "no such bucket"},
		}
	})
	require.Eventually(t, func() bool {
		got, err = b.Get(t.Context(), id)
		return err == nil && got.Mounts[0].Phase == warmpool.MountReady
	}, 10*time.Second, 5*time.Millisecond)
	require.True(t, got.Mounts[0].MountedAt.Equal(at.Time))
	require.Equal(t, "no such bucket", got.Mounts[1].Message)
	require.Equal(t, warmpool.MountFailed, got.Mounts[1].Phase)
	require.Equal(t, warmpool.MountLive, got.Mounts[0].Verdict, "it was read when it was mounted")
	require.Equal(t, warmpool.MountDead, got.Mounts[1].Verdict)
}
