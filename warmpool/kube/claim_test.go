package kube_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/kube"
)

// counted counts the writes of Sandboxes that go through a client.
func counted(w *world, n *atomic.Int32) client.Client {
	count := func(obj client.Object) {
		if _, ok := obj.(*v1alpha1.Sandbox); ok {
			n.Add(1)
		}
	}
	return interceptor.NewClient(w.client, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch, opts ...client.PatchOption) error {
			count(obj)
			return c.Patch(ctx, obj, p, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.UpdateOption) error {
			count(obj)
			return c.Update(ctx, obj, opts...)
		},
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			count(obj)
			return c.Create(ctx, obj, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.DeleteOption) error {
			count(obj)
			return c.Delete(ctx, obj, opts...)
		},
	})
}

func TestAWarmCreateIsOneWriteThatSaysAll(t *testing.T) {
	w := newWorld(t)
	set := w.set("base", 1)
	var writes atomic.Int32
	b := w.replica(func(c *kube.Config) {
		c.Client = counted(w, &writes)
		c.Request = func(context.Context) string { return "req-1" }
	})
	w.stocked(b, "base", 1)
	c := order("base")
	c.Env, c.Metadata = map[string]string{"SECRET": "canary"}, map[string]string{"user": "u"}
	spec := mount.Spec{ID: "m1", Volume: "pv", Target: "/data", SubPath: "of/${SANDBOX_ID}"}
	c.Mounts = []mount.Spec{spec}
	begin := time.Now()
	s, err := b.Claim(t.Context(), c)
	require.NoError(t, err)
	spec.SubPath = "of/" + string(s.ID)
	s, err = b.Start(t.Context(), s.ID, warmpool.Start{Env: c.Env, Mounts: []mount.Mount{{Spec: spec, Driver: mount.DriverTmpfs, VolumeHandle: "h"}}})
	require.NoError(t, err)
	require.Equal(t, int32(1), writes.Load())
	require.Equal(t, warmpool.MountReady, s.Mounts[0].Phase)
	require.Equal(t, spec, s.Mounts[0].Spec)

	sb := w.object(s.ID)
	require.Equal(t, "true", sb.Labels[v1alpha1.LabelClaimed])
	require.Equal(t, set.Name, sb.Labels[v1alpha1.LabelPool], "it stays when it is claimed")
	require.Empty(t, sb.OwnerReferences, "the set's end must not be the sandbox's")
	require.Equal(t, []v1alpha1.Mount{{ID: "m1", Volume: "pv", Path: "/data", SubPath: "of/${SANDBOX_ID}", RequestedAt: &sb.Spec.Claim.Time}}, sb.Spec.Mounts)
	lasts(t, begin, 5*time.Minute, sb.Spec.ShutdownTime.Time)
	require.Equal(t, v1alpha1.Principal{Team: "red", Key: "k1"}, sb.Spec.Claim.Principal)
	require.Equal(t, "req-1", sb.Spec.Claim.Request)
	require.Equal(t, int64(300), sb.Spec.Claim.Timeout)
	require.NotContains(t, string(sb.Spec.Claim.SealedEnv), "canary")
	env, err := w.keys.Open(s.ID, sb.Spec.Claim.Nonce, sb.Spec.Claim.SealedEnv)
	require.NoError(t, err)
	require.Equal(t, c.Env, env)
	require.Len(t, w.agents.of(sb.UID), 1)
}

// What is in stock is on node a; what is made for a claim is where its pod may be.
func TestAClaimForNodesGetsASandboxThere(t *testing.T) {
	w := newWorld(t)
	place := func(sb *v1alpha1.Sandbox) {
		sb.Status.PodInfo.NodeName = "a"
		if affinity := sb.Spec.Template.Spec.Affinity; affinity != nil {
			terms := affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
			sb.Status.PodInfo.NodeName = terms[0].MatchFields[0].Values[0]
		}
	}
	w.outcome.Store(&place)
	w.set("base", 2)
	b := w.replica()
	w.stocked(b, "base", 2)
	c := order("base")
	c.Nodes = []string{"a", "c"}
	s, err := b.Claim(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, "a", s.Node)
	require.Nil(t, w.object(s.ID).Spec.Template.Spec.Affinity, "it was in stock")

	c.Nodes = []string{"b"}
	s, err = b.Claim(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, "b", s.Node)
	w.stocked(b, "base", 1)

	none := w.replica(func(c *kube.Config) { c.Cold = -1 })
	w.stocked(none, "base", 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err = none.Claim(ctx, c)
	require.Equal(t, warmpool.Exhausted, warmpool.CodeOf(err))
	require.ErrorContains(t, err, "on the nodes of its volumes")
}

func TestClaimsForANodeThatIsFullKeepNobodyElseWaiting(t *testing.T) {
	w := newWorld(t)
	full := func(sb *v1alpha1.Sandbox) {
		if sb.Spec.Template.Spec.Affinity != nil {
			sb.Status.Phase, sb.Status.Conditions = v1alpha1.PhasePending, nil
		}
	}
	w.outcome.Store(&full)
	w.set("base", 0)
	b := w.replica(func(c *kube.Config) { c.Cold = 1 })
	bound := order("base")
	bound.Nodes = []string{"full"}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := b.Claim(ctx, bound)
		ended <- err
	}()
	require.Eventually(t, func() bool {
		var all v1alpha1.SandboxList
		return w.client.List(t.Context(), &all, client.InNamespace(w.ns)) == nil && len(all.Items) == 1
	}, 10*time.Second, 10*time.Millisecond, "it is being made")
	_, err := b.Claim(t.Context(), order("base"))
	require.NoError(t, err)
	require.Empty(t, ended, "the other one still waits")
	cancel()
	require.Error(t, <-ended)
}

func TestManyReplicasNeverHandOutTheSameSandbox(t *testing.T) {
	w := newWorld(t)
	const stock, claims = 50, 200
	w.set("base", stock)
	var all []*kube.Backend
	for range 3 {
		b := w.replica(func(c *kube.Config) { c.Cold = -1 })
		w.stocked(b, "base", stock)
		all = append(all, b)
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		seen = map[warmpool.ID]int{}
		errs []error
	)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for i := range claims {
		wg.Go(func() {
			s, err := all[i%len(all)].Claim(ctx, order("base"))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			seen[s.ID]++
		})
	}
	wg.Wait()
	require.Len(t, seen, stock, "all stock was handed out")
	for id, n := range seen {
		require.Equal(t, 1, n, "sandbox %s was handed out twice", id)
	}
	require.Len(t, errs, claims-stock)
	for _, err := range errs {
		require.Equal(t, warmpool.Exhausted, warmpool.CodeOf(err))
		var e *warmpool.Error
		require.ErrorAs(t, err, &e)
		require.Positive(t, e.RetryAfter)
	}
}

func TestAConflictCostsOnlyTheNextCandidate(t *testing.T) {
	w := newWorld(t)
	w.set("base", 6)
	// The first five that it wants change behind the replica's back, in the moment that it claims them.
	var tries atomic.Int32
	late := interceptor.NewClient(w.client, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch, opts ...client.PatchOption) error {
			if n := tries.Add(1); n <= 5 {
				touched := &v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: obj.GetNamespace(), Name: obj.GetName()}}
				body := fmt.Sprintf(`{"metadata":{"annotations":{"touched":"%d"}}}`, n)
				if err := c.Patch(ctx, touched, client.RawPatch(types.MergePatchType, []byte(body))); err != nil {
					return err
				}
			}
			return c.Patch(ctx, obj, p, opts...)
		},
	})
	b := w.replica(func(c *kube.Config) { c.Cold, c.Client, c.Clock = -1, late, testclock.NewFakeClock(time.Now()) })
	w.stocked(b, "base", 6)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := b.Claim(ctx, order("base"))
	require.NoError(t, err, "its clock stands still: a pause would not end")
	require.Equal(t, int32(6), tries.Load())
	w.stocked(b, "base", 5) // what was only touched is stock again
}

func TestOnlyWhatItsSetHasMadeIsStock(t *testing.T) {
	w := newWorld(t)
	set := w.set("base", 0)
	other := w.set("other", 0)
	b := w.replica(func(c *kube.Config) { c.Cold = -1 })
	for name, change := range map[string]func(*v1alpha1.Sandbox){
		"no owner":                 func(sb *v1alpha1.Sandbox) { sb.OwnerReferences = nil },
		"an owner of another kind": func(sb *v1alpha1.Sandbox) { sb.OwnerReferences[0].Kind = "ReplicaSet" },
		"an owner that is not its controller": func(sb *v1alpha1.Sandbox) {
			sb.OwnerReferences[0].Controller = nil
		},
		"a set of the same name that is gone": func(sb *v1alpha1.Sandbox) { sb.OwnerReferences[0].UID = "11111111-2222-3333-4444-555555555555" },
		"no label of a pool":                  func(sb *v1alpha1.Sandbox) { delete(sb.Labels, v1alpha1.LabelPool) },
		"an ID that is none":                  func(sb *v1alpha1.Sandbox) { sb.Labels[v1alpha1.LabelSandboxID] = "mine" },
		"somebody's, given back to its set": func(sb *v1alpha1.Sandbox) {
			sb.Spec.Claim = &v1alpha1.Claim{Principal: v1alpha1.Principal{Team: "red"}, Nonce: "n", Time: metav1.NowMicro()}
		},
	} {
		sb := stockOf(set)
		change(sb)
		require.NoError(t, w.client.Create(t.Context(), sb), name)
	}
	require.NoError(t, w.client.Create(t.Context(), stockOf(other)))
	w.stocked(b, "other", 1)
	require.Eventually(t, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.ready == 8 }, 10*time.Second, 10*time.Millisecond)
	tpl, err := b.Template(t.Context(), "base")
	require.NoError(t, err)
	require.Zero(t, tpl.Ready)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = b.Claim(ctx, order("base"))
	require.Equal(t, warmpool.Exhausted, warmpool.CodeOf(err))
}

func TestWhoWaitsIsServedInOrder(t *testing.T) {
	w := newWorld(t)
	set := w.set("base", 5) // a refill of five is under way, so that nobody starts cold
	b := w.replica()
	w.stocked(b, "base", 5)
	for range 5 {
		_, err := b.Claim(t.Context(), order("base"))
		require.NoError(t, err)
	}
	got := make(chan int, 5)
	for i := range 5 {
		go func() {
			if _, err := b.Claim(t.Context(), order("base")); err != nil {
				w.t.Errorf("claim %d: %v", i, err)
			}
			got <- i
		}()
		b.AwaitWaiters(t, set.UID, i+1)
	}
	for i := range 5 {
		require.NoError(t, w.client.Create(t.Context(), stockOf(set)))
		select {
		case first := <-got:
			require.Equal(t, i, first)
		case <-time.After(10 * time.Second):
			t.Fatalf("claim %d was not served", i)
		}
	}
}

func TestAWaiterWhoLeavesTakesNothing(t *testing.T) {
	w := newWorld(t)
	set := w.set("base", 1)
	b := w.replica()
	w.stocked(b, "base", 1)
	_, err := b.Claim(t.Context(), order("base"))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := b.Claim(ctx, order("base"))
		left <- err
	}()
	b.AwaitWaiters(t, set.UID, 1)
	cancel()
	require.Equal(t, warmpool.Exhausted, warmpool.CodeOf(<-left))
	require.NoError(t, w.client.Create(t.Context(), stockOf(set)))
	w.stocked(b, "base", 1)
	all, err := b.List(t.Context(), warmpool.Filter{})
	require.NoError(t, err)
	require.Len(t, all, 1)
}

func TestWithoutStockASandboxIsMadeForItsClaim(t *testing.T) {
	w := newWorld(t)
	w.set("base", 0)
	b := w.replica()
	c := order("base")
	c.Timeout, c.Metadata = 15*time.Second, map[string]string{"a": "b"}
	s, err := b.Claim(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, warmpool.Claimed, s.State)
	begin := time.Now()
	s, err = b.Start(t.Context(), s.ID, warmpool.Start{})
	require.NoError(t, err)
	require.Equal(t, warmpool.Running, s.State)
	require.Equal(t, c.Metadata, s.Metadata)
	lasts(t, begin, 15*time.Second, s.EndAt, "its making does not count")
	sb := w.object(s.ID)
	require.Empty(t, sb.OwnerReferences)
	require.Equal(t, []string{v1alpha1.FinalizerMounts}, sb.Finalizers)
	require.Equal(t, "base", sb.Labels[v1alpha1.LabelPool])
	require.Equal(t, "true", sb.Labels[v1alpha1.LabelClaimed])
	require.Equal(t, []v1alpha1.Runtime{{Name: "csi"}, {Name: "agent-runtime"}}, sb.Spec.Runtimes)
	require.Equal(t, "sandbox", sb.Spec.Template.Spec.Containers[0].Name)
}

func TestAColdSandboxThatFailsIsUndoneWithItsReason(t *testing.T) {
	w := newWorld(t)
	w.set("base", 0)
	fail := func(sb *v1alpha1.Sandbox) {
		sb.Status.Phase, sb.Status.Message, sb.Status.Conditions = v1alpha1.PhaseFailed, "the image cannot be pulled", nil
	}
	w.outcome.Store(&fail)
	b := w.replica()
	_, err := b.Claim(t.Context(), order("base"))
	require.Equal(t, warmpool.Unavailable, warmpool.CodeOf(err))
	require.ErrorContains(t, err, "the image cannot be pulled")
	require.Eventually(t, func() bool { return len(w.objects()) == 0 }, 10*time.Second, 20*time.Millisecond)
}

func TestAColdSandboxIsUndoneAtTheDeadline(t *testing.T) {
	w := newWorld(t)
	w.set("base", 0)
	w.idle.Store(true)
	b := w.replica()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := b.Claim(ctx, order("base"))
	require.Equal(t, warmpool.Exhausted, warmpool.CodeOf(err))
	require.Eventually(t, func() bool { return len(w.objects()) == 0 }, 10*time.Second, 20*time.Millisecond)
}

func TestStockThatComesFirstIsTakenAndTheColdSandboxUndone(t *testing.T) {
	w := newWorld(t)
	set := w.set("base", 0)
	w.idle.Store(true)
	b := w.replica()
	got := make(chan warmpool.Sandbox, 1)
	go func() {
		s, err := b.Claim(t.Context(), order("base"))
		if err != nil {
			w.t.Errorf("claim: %v", err)
		}
		got <- s
	}()
	require.Eventually(t, func() bool { return len(w.objects()) == 1 }, 10*time.Second, 10*time.Millisecond)
	stock := stockOf(set)
	require.NoError(t, w.client.Create(t.Context(), stock))
	w.mu.Lock()
	w.makeReady(t.Context(), stock) // and the cold one is not
	w.mu.Unlock()
	require.Equal(t, warmpool.ID(stock.Labels[v1alpha1.LabelSandboxID]), (<-got).ID)
	require.Eventually(t, func() bool { return len(w.objects()) == 1 }, 10*time.Second, 20*time.Millisecond)
}

func TestOnlySoManySandboxesAreMadeColdAtATime(t *testing.T) {
	w := newWorld(t)
	w.set("base", 0)
	w.idle.Store(true)
	b := w.replica(func(c *kube.Config) { c.Cold = 2 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() { _, _ = b.Claim(ctx, order("base")) })
	}
	require.Eventually(t, func() bool { return len(w.objects()) == 2 }, 30*time.Second, 10*time.Millisecond)
	require.Never(t, func() bool { return len(w.objects()) > 2 }, 300*time.Millisecond, 20*time.Millisecond)
	cancel()
	wg.Wait()
	require.Eventually(t, func() bool { return len(w.objects()) == 0 }, 10*time.Second, 20*time.Millisecond)
}

func TestAPoolThatCannotBeFilledSaysWhyAtOnce(t *testing.T) {
	w := newWorld(t)
	set := w.set("base", 0)
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		var latest v1alpha1.SandboxSet
		if err := w.client.Get(t.Context(), client.ObjectKeyFromObject(set), &latest); err != nil {
			return err
		}
		latest.Status.Conditions = []metav1.Condition{{
			Type: v1alpha1.ConditionFilled, Status: metav1.ConditionFalse, Reason: "PodRefused", Message: "pods are forbidden here", LastTransitionTime: metav1.Now(),
		}}
		return w.client.Status().Update(t.Context(), &latest)
	})
	require.NoError(t, err)
	b := w.replica()
	tpl, err := b.Template(t.Context(), "base")
	require.NoError(t, err)
	require.Equal(t, "pods are forbidden here", tpl.Reason)
	_, err = b.Claim(t.Context(), order("base"))
	require.Equal(t, warmpool.Unavailable, warmpool.CodeOf(err))
	require.ErrorContains(t, err, "pods are forbidden here")
}

func TestAClaimWhoseAnswerIsLostLeavesNothing(t *testing.T) {
	for _, arrived := range []bool{true, false} {
		t.Run(fmt.Sprintf("and the write arrived: %t", arrived), func(t *testing.T) {
			w := newWorld(t)
			w.set("base", 1)
			lost := interceptor.NewClient(w.client, interceptor.Funcs{
				Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch, opts ...client.PatchOption) error {
					if arrived {
						if err := c.Patch(ctx, obj, p, opts...); err != nil {
							return err
						}
					}
					return errors.New("connection reset by peer")
				},
			})
			b := w.replica(func(c *kube.Config) { c.Client = lost })
			w.stocked(b, "base", 1)
			_, err := b.Claim(t.Context(), order("base"))
			require.Equal(t, warmpool.Unavailable, warmpool.CodeOf(err))
			if arrived {
				require.Eventually(t, func() bool { return len(w.objects()) == 0 }, 10*time.Second, 20*time.Millisecond)
				return
			}
			w.stocked(b, "base", 1)
		})
	}
}

func TestWhatCannotBeKeptIsRefused(t *testing.T) {
	w := newWorld(t)
	w.set("base", 1)
	b := w.replica()
	w.stocked(b, "base", 1)
	no := false
	c := order("base")
	c.AllowInternet = &no
	_, err := b.Claim(t.Context(), c)
	require.Equal(t, warmpool.Unsupported, warmpool.CodeOf(err))
	c = order("base")
	c.Metadata = map[string]string{}
	for i := range 600 { // more than the schema takes
		c.Metadata[fmt.Sprint(i)] = "x"
	}
	_, err = b.Claim(t.Context(), c)
	require.Equal(t, warmpool.Invalid, warmpool.CodeOf(err))
	w.stocked(b, "base", 1)
}
