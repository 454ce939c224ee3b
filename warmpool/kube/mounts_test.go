package kube_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/kube"
)

func data(target string) mount.Mount {
	m := mount.Mount{Spec: mount.Spec{Volume: "pv", Target: target}, Driver: mount.DriverTmpfs, VolumeHandle: "h"}
	m.ID = m.DerivedID()
	return m
}

// running is a sandbox that somebody has, of a gateway with one replica.
func running(t *testing.T) (*world, *kube.Backend, warmpool.Sandbox) {
	t.Helper()
	w := newWorld(t)
	w.set("base", 1)
	b := w.replica()
	w.stocked(b, "base", 1)
	s, err := create(t.Context(), b, order("base"))
	require.NoError(t, err)
	return w, b, s
}

func TestAMountOnALivingSandboxIsWrittenDownForWhoeverRepairs(t *testing.T) {
	w, b, s := running(t)
	m := data("/data")
	m.SubPath, m.AllowNonEmpty = "a", true
	begin := time.Now()
	_, made, err := b.Publish(t.Context(), s.ID, m)
	require.NoError(t, err)
	require.True(t, made)
	sb := w.object(s.ID)
	require.Len(t, sb.Spec.Mounts, 1)
	at := sb.Spec.Mounts[0].RequestedAt
	require.WithinDuration(t, begin, at.Time, 10*time.Second)
	require.Equal(t, v1alpha1.Mount{ID: m.ID, Volume: "pv", Path: "/data", SubPath: "a", AllowNonEmpty: true, RequestedAt: at}, sb.Spec.Mounts[0])
	require.Len(t, w.agents.of(sb.UID), 1)
	require.Equal(t, "base", s.MadeFrom.Name)
	require.Equal(t, []string{"csi", "agent-runtime"}, s.MadeFrom.Runtimes)

	version := sb.ResourceVersion
	_, made, err = b.Publish(t.Context(), s.ID, m)
	require.NoError(t, err)
	require.False(t, made)
	require.Equal(t, version, w.object(s.ID).ResourceVersion, "the same again writes nothing")
	require.NoError(t, b.Unpublish(t.Context(), s.ID, mount.Mount{Spec: m.Spec, VolumeHandle: "h"}, false))
	require.Empty(t, w.object(s.ID).Spec.Mounts)
	require.Empty(t, w.agents.of(sb.UID))
}

func TestReplicasSeeEachOthersMounts(t *testing.T) {
	w := newWorld(t)
	w.set("base", 1)
	one, two := w.replica(), w.replica()
	w.stocked(one, "base", 1)
	s, err := create(t.Context(), one, order("base"))
	require.NoError(t, err)
	_, err = two.Get(t.Context(), s.ID)
	require.NoError(t, err)
	// At once, with whatever each of them knows of the other.
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		b := []interface {
			Publish(context.Context, warmpool.ID, mount.Mount) (warmpool.MountStatus, bool, error)
		}{one, two}[i%2]
		wg.Go(func() { _, _, errs[i] = b.Publish(t.Context(), s.ID, data(fmt.Sprintf("/data/%d", i/2))) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Len(t, w.object(s.ID).Spec.Mounts, 4)
	_, _, err = two.Publish(t.Context(), s.ID, data("/data"))
	require.Equal(t, warmpool.Conflict, warmpool.CodeOf(err))
	_, _, err = one.Publish(t.Context(), s.ID, data("/fresh"))
	require.NoError(t, err)
	require.NoError(t, two.Unpublish(t.Context(), s.ID, data("/fresh"), false), "asked for a moment ago over the other one")
}

func TestAMountThatFailsIsTakenBack(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		code warmpool.Code
		says string
	}{
		"a volume that is refused":         {fmt.Errorf("%w: wrong key", mount.ErrDenied), warmpool.Denied, "wrong key"},
		"a target that is taken":           {fmt.Errorf("%w: not empty", node.ErrConflict), warmpool.Conflict, "not empty"},
		"an agent that cannot be reached":  {channel.ErrUnreachable, warmpool.Unavailable, "cannot be reached"},
		"an agent that is too old":         {channel.ErrTooOld, warmpool.Unavailable, "sandbox-injection-config"},
		"something that nobody classified": {fmt.Errorf("exit status 32"), warmpool.Internal, "operator"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.set("base", 1)
			b := w.replica()
			w.stocked(b, "base", 1)
			s, err := create(t.Context(), b, order("base"))
			require.NoError(t, err)
			w.agents.onPublish = func(context.Context, string, mount.Mount) error { return c.err }
			_, _, err = b.Publish(t.Context(), s.ID, data("/data"))
			require.Equal(t, c.code, warmpool.CodeOf(err), "%v", err)
			require.ErrorContains(t, err, c.says)
			require.Empty(t, w.object(s.ID).Spec.Mounts, "it is not repaired")
			got, err := b.Get(t.Context(), s.ID)
			require.NoError(t, err, "the sandbox goes on")
			require.Equal(t, warmpool.Running, got.State)
			require.Empty(t, got.Mounts)
		})
	}
}

func TestAnUnmountOfWhatIsInUseChangesNothing(t *testing.T) {
	w, b, s := running(t)
	_, _, err := b.Publish(t.Context(), s.ID, data("/data"))
	require.NoError(t, err)
	w.agents.onUnpublish = func(_ context.Context, _ string, force bool) error {
		if force {
			return node.ErrDataLoss
		}
		return node.ErrInUse
	}
	err = b.Unpublish(t.Context(), s.ID, data("/data"), false)
	require.Equal(t, warmpool.Conflict, warmpool.CodeOf(err), "%v", err)
	require.Len(t, w.object(s.ID).Spec.Mounts, 1)

	// Its PersistentVolume is gone: the controller has written down what it is by.
	unknown := data("/data")
	unknown.VolumeHandle = ""
	require.Equal(t, warmpool.Unavailable, warmpool.CodeOf(b.Unpublish(t.Context(), s.ID, unknown, true)))
	sb := w.object(s.ID)
	before := sb.DeepCopy()
	sb.Status.Mounts = []v1alpha1.MountStatus{{ID: unknown.ID, VolumeHandle: "h", Path: "/data", Phase: "Mounted", MountedAt: &metav1.Time{Time: time.Now()}}}
	require.NoError(t, w.client.Status().Patch(t.Context(), sb, client.MergeFrom(before)))
	require.Eventually(t, func() bool {
		err = b.Unpublish(t.Context(), s.ID, unknown, true)
		return warmpool.CodeOf(err) != warmpool.Unavailable
	}, 10*time.Second, 10*time.Millisecond)
	require.ErrorIs(t, err, warmpool.ErrDataLoss)
	require.Empty(t, w.object(s.ID).Spec.Mounts, "gone all the same")
}

func TestAnUnmountInOneContainerLeavesTheOthersAlone(t *testing.T) {
	w, b, s := running(t)
	first, second := data("/data"), data("/data")
	second.Container = "reader"
	second.ID = second.DerivedID()
	for _, m := range []mount.Mount{first, second} {
		_, _, err := b.Publish(t.Context(), s.ID, m)
		require.NoError(t, err)
	}
	uid := w.object(s.ID).UID
	w.agents.onUnpublish = func(context.Context, string, bool) error { return node.ErrInUse }
	require.Equal(t, warmpool.Conflict, warmpool.CodeOf(b.Unpublish(t.Context(), s.ID, second, false)), "it is in use")
	require.Len(t, w.agents.of(uid), 2)

	w.agents.onUnpublish = nil
	require.NoError(t, b.Unpublish(t.Context(), s.ID, second, false))
	require.Equal(t, []mount.Mount{first}, w.agents.of(uid))
	require.Len(t, w.object(s.ID).Spec.Mounts, 1)
}

func TestAMountThatAnotherReplicaIsMakingIsPending(t *testing.T) {
	w := newWorld(t)
	w.set("base", 1)
	one, two := w.replica(), w.replica()
	w.stocked(one, "base", 1)
	s, err := create(t.Context(), one, order("base"))
	require.NoError(t, err)
	begun, end := make(chan struct{}), make(chan struct{})
	w.agents.onPublish = func(context.Context, string, mount.Mount) error {
		close(begun)
		<-end
		return nil
	}
	done := make(chan error, 1)
	go func() {
		_, _, err := one.Publish(t.Context(), s.ID, data("/data"))
		done <- err
	}()
	<-begun
	phase := func() (phase warmpool.MountPhase) {
		got, err := two.Get(t.Context(), s.ID)
		require.NoError(t, err)
		for _, m := range got.Mounts {
			phase = m.Phase
		}
		return phase
	}
	require.Eventually(t, func() bool { return phase() == warmpool.MountPending }, 10*time.Second, 5*time.Millisecond)
	close(end)
	require.NoError(t, <-done)
	got, err := one.Get(t.Context(), s.ID)
	require.NoError(t, err)
	require.Equal(t, warmpool.MountReady, got.Mounts[0].Phase)
}

// publisher is what of a replica these tests use.
type publisher interface {
	Publish(ctx context.Context, id warmpool.ID, m mount.Mount) (warmpool.MountStatus, bool, error)
	Unpublish(ctx context.Context, id warmpool.ID, m mount.Mount, force bool) error
}

// once lets the next publish do something before it is made.
func (a *agents) once(do func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.onPublish = func(context.Context, string, mount.Mount) error {
		a.mu.Lock()
		a.onPublish = nil
		a.mu.Unlock()
		do()
		return nil
	}
}

// behind are two replicas, of which the second one knows of a running sandbox what there was when seen returns, and nothing later.
func (w *world) behind(seen func(one publisher, id warmpool.ID)) (one, two *kube.Backend, id warmpool.ID) {
	w.t.Helper()
	w.set("base", 1)
	one, two = w.replica(), w.frozen()
	w.stocked(one, "base", 1)
	s, err := create(w.t.Context(), one, order("base"))
	require.NoError(w.t, err)
	seen(one, s.ID)
	want := w.object(s.ID).ResourceVersion
	require.Eventually(w.t, func() bool { return two.Knows(s.ID) == want }, 10*time.Second, time.Millisecond)
	w.freeze()
	return one, two, s.ID
}

func TestAMountThatIsTakenOutWhileItIsMadeIsNotThere(t *testing.T) {
	for name, again := range map[string]bool{"by who asked for it": false, "by another one who asked for the same": true} {
		for by, take := range map[string]func(w *world, b *kube.Backend, id warmpool.ID){
			"over the API": func(w *world, b *kube.Backend, id warmpool.ID) {
				require.NoError(w.t, b.Unpublish(w.t.Context(), id, data("/data"), false))
			},
			"with kubectl": func(w *world, _ *kube.Backend, id warmpool.ID) {
				sb := w.object(id)
				require.NoError(w.t, w.client.Patch(w.t.Context(), sb, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"mounts":null}}`))))
			},
		} {
			t.Run(name+", "+by, func(t *testing.T) {
				w := newWorld(t)
				w.set("base", 1)
				b := w.replica()
				w.stocked(b, "base", 1)
				s, err := create(t.Context(), b, order("base"))
				require.NoError(t, err)
				if again {
					_, _, err = b.Publish(t.Context(), s.ID, data("/data"))
					require.NoError(t, err)
				}
				w.agents.once(func() { take(w, b, s.ID) })
				_, _, err = b.Publish(t.Context(), s.ID, data("/data"))
				require.Equal(t, warmpool.Unavailable, warmpool.CodeOf(err), "%v", err)
				require.ErrorContains(t, err, "taken away while it was made")
				sb := w.object(s.ID)
				require.Empty(t, sb.Spec.Mounts)
				require.Empty(t, w.agents.of(sb.UID))
				_, made, err := b.Publish(t.Context(), s.ID, data("/data"))
				require.NoError(t, err)
				require.True(t, made)
			})
		}
	}
}

func TestAMountWhosePlaceAnotherVolumeHasTakenIsNotThere(t *testing.T) {
	w, b, s := running(t)
	other := data("/data")
	other.Volume, other.VolumeHandle = "other", "of-other"
	other.ID = other.DerivedID()
	w.agents.once(func() {
		require.NoError(t, b.Unpublish(t.Context(), s.ID, data("/data"), false))
		before := w.object(s.ID)
		sb := before.DeepCopy()
		sb.Spec.Mounts = []v1alpha1.Mount{{ID: other.ID, Volume: "other", Path: "/data"}}
		require.NoError(t, w.client.Patch(t.Context(), sb, client.MergeFrom(before)))
	})
	_, _, err := b.Publish(t.Context(), s.ID, data("/data"))
	require.Equal(t, warmpool.Unavailable, warmpool.CodeOf(err), "%v", err)
	require.Empty(t, w.agents.of(w.object(s.ID).UID), "the other one could not be mounted else")
}

func TestAReplicaThatIsBehindMountsWhatAnotherOneHasTakenAway(t *testing.T) {
	w := newWorld(t)
	one, two, id := w.behind(func(one publisher, id warmpool.ID) {
		_, _, err := one.Publish(t.Context(), id, data("/data"))
		require.NoError(t, err)
	})
	require.NoError(t, one.Unpublish(t.Context(), id, data("/data"), false))
	_, made, err := two.Publish(t.Context(), id, data("/data"))
	require.NoError(t, err)
	require.True(t, made)
	sb := w.object(id)
	require.Len(t, sb.Spec.Mounts, 1)
	require.Len(t, w.agents.of(sb.UID), 1)
}

func TestAReplicaThatIsBehindCanLookAgain(t *testing.T) {
	w := newWorld(t)
	one, two, id := w.behind(func(publisher, warmpool.ID) {})
	_, _, err := one.Publish(t.Context(), id, data("/data"))
	require.NoError(t, err)
	got, err := two.Get(t.Context(), id)
	require.NoError(t, err)
	require.Empty(t, got.Mounts)
	got, err = two.Reread(t.Context(), id)
	require.NoError(t, err)
	require.Len(t, got.Mounts, 1)
	got, err = two.Get(t.Context(), id)
	require.NoError(t, err)
	require.Len(t, got.Mounts, 1, "it knows it from then on")
	require.NoError(t, one.Release(t.Context(), id))
	_, err = two.Reread(t.Context(), id)
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))
	_, err = two.Reread(t.Context(), warmpool.NewID())
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))
}

func TestAReplicaThatIsBehindLeavesNothingOfWhatIsTakenAwayMeanwhile(t *testing.T) {
	w := newWorld(t)
	one, two, id := w.behind(func(one publisher, id warmpool.ID) {
		_, _, err := one.Publish(t.Context(), id, data("/data"))
		require.NoError(t, err)
	})
	w.agents.once(func() { require.NoError(t, one.Unpublish(t.Context(), id, data("/data"), false)) })
	_, _, err := two.Publish(t.Context(), id, data("/data"))
	require.Equal(t, warmpool.Unavailable, warmpool.CodeOf(err), "%v", err)
	require.Empty(t, w.agents.of(w.object(id).UID))
}

// asX is a mount of a volume with the ID "x".
func asX(volume, target string) mount.Mount {
	m := data(target)
	m.ID, m.Volume, m.VolumeHandle = "x", volume, "of-"+volume
	return m
}

// tell writes what the controller would have seen of a sandbox's mounts.
func (w *world) tell(id warmpool.ID, of ...v1alpha1.MountStatus) {
	w.t.Helper()
	before := w.object(id)
	sb := before.DeepCopy()
	sb.Status.Mounts = of
	require.NoError(w.t, w.client.Status().Patch(w.t.Context(), sb, client.MergeFrom(before)))
}

// write changes the mounts that a Sandbox asks for, as kubectl does.
func (w *world) write(id warmpool.ID, mounts ...v1alpha1.Mount) {
	w.t.Helper()
	before := w.object(id)
	sb := before.DeepCopy()
	sb.Spec.Mounts = mounts
	require.NoError(w.t, w.client.Patch(w.t.Context(), sb, client.MergeFrom(before)))
}

func TestAnUnmountTakesOutWhatItUnmountsAndNothingElse(t *testing.T) {
	for name, told := range map[string]bool{"of which nothing is known yet": false, "of which the controller has told": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			first, second := asX("first", "/a"), asX("second", "/b")
			one, two, id := w.behind(func(one publisher, id warmpool.ID) {
				_, _, err := one.Publish(t.Context(), id, first)
				require.NoError(t, err)
			})
			require.NoError(t, one.Unpublish(t.Context(), id, first, false))
			_, _, err := one.Publish(t.Context(), id, second)
			require.NoError(t, err)
			if told {
				w.tell(id, v1alpha1.MountStatus{ID: "x", Source: "second", VolumeHandle: second.VolumeHandle, Path: "/b", Phase: "Mounted"})
			}
			uid := w.object(id).UID
			err = two.Unpublish(t.Context(), id, first, false)
			if !told { // the first one's handle is not the second one's
				require.Equal(t, warmpool.Unavailable, warmpool.CodeOf(err), "%v", err)
				require.Len(t, w.object(id).Spec.Mounts, 1)
				require.Len(t, w.agents.of(uid), 1)
				err = two.Unpublish(t.Context(), id, second, false)
			}
			require.NoError(t, err)
			require.Empty(t, w.object(id).Spec.Mounts)
			require.Empty(t, w.agents.of(uid))
		})
	}
}

func TestAnUnmountGoesByNoStatusOfAnEarlierMount(t *testing.T) {
	w, b, s := running(t)
	second := asX("second", "/a")
	_, _, err := b.Publish(t.Context(), s.ID, second)
	require.NoError(t, err)
	w.tell(s.ID, v1alpha1.MountStatus{ID: "x", Source: "first", VolumeHandle: "of-first", Path: "/a", Phase: "Mounted"})
	want := w.object(s.ID)
	require.Eventually(t, func() bool { return b.Knows(s.ID) == want.ResourceVersion }, 10*time.Second, time.Millisecond)
	unknown := second
	unknown.VolumeHandle = ""
	require.Equal(t, warmpool.Unavailable, warmpool.CodeOf(b.Unpublish(t.Context(), s.ID, unknown, true)))
	require.Len(t, w.object(s.ID).Spec.Mounts, 1)
	require.NoError(t, b.Unpublish(t.Context(), s.ID, second, false))
	require.Empty(t, w.agents.of(want.UID))
}

func TestAMountThatKubectlHasWrittenIsUnmountedWhereItIs(t *testing.T) {
	w, b, s := running(t)
	w.write(s.ID, v1alpha1.Mount{ID: "x", Kind: "PersistentVolume", Volume: "pv", Path: "/data/in/"})
	uid := w.object(s.ID).UID
	w.agents.published[string(uid)] = []mount.Mount{asX("pv", "/data/in")}
	require.NoError(t, b.Unpublish(t.Context(), s.ID, asX("pv", "/data/in"), false))
	require.Empty(t, w.agents.of(uid))
	require.Empty(t, w.object(s.ID).Spec.Mounts)
}

func TestAMountThatNeverWasCanBeTakenOut(t *testing.T) {
	w, b, s := running(t)
	typo := asX("typo", "/a")
	typo.VolumeHandle = ""
	w.write(s.ID, v1alpha1.Mount{ID: "x", Volume: "typo", Path: "/a"})
	require.Equal(t, warmpool.Unavailable, warmpool.CodeOf(b.Unpublish(t.Context(), s.ID, typo, true)), "nobody has looked yet")
	w.tell(s.ID, v1alpha1.MountStatus{ID: "x", Source: "typo", Path: "/a", Phase: "Failed", Message: "volume: no PersistentVolume of that name"})
	require.NoError(t, b.Unpublish(t.Context(), s.ID, typo, false))
	require.Empty(t, w.object(s.ID).Spec.Mounts)
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(b.Unpublish(t.Context(), s.ID, typo, false)))
}

func TestAMountWhoseVolumeWasDeletedBeforeTheControllerSawItNeedsForce(t *testing.T) {
	w, b, s := running(t)
	m := asX("pv", "/a")
	_, _, err := b.Publish(t.Context(), s.ID, m)
	require.NoError(t, err)
	w.tell(s.ID, v1alpha1.MountStatus{ID: "x", Source: "pv", Path: "/a", Phase: "Failed", Message: "volume: no PersistentVolume of that name"})
	m.VolumeHandle = ""
	err = b.Unpublish(t.Context(), s.ID, m, false)
	require.Equal(t, warmpool.Unavailable, warmpool.CodeOf(err))
	require.ErrorContains(t, err, "with force")
	require.Len(t, w.object(s.ID).Spec.Mounts, 1)
	require.ErrorIs(t, b.Unpublish(t.Context(), s.ID, m, true), warmpool.ErrDataLoss)
	require.Empty(t, w.object(s.ID).Spec.Mounts)
}

func TestAMountThatNobodyHasMountedIsPending(t *testing.T) {
	w := newWorld(t)
	w.set("base", 1)
	one, two := w.replica(), w.replica()
	w.stocked(one, "base", 1)
	c := order("base")
	c.Mounts = []mount.Spec{data("/data").Spec}
	s, err := one.Claim(t.Context(), c)
	require.NoError(t, err)
	_, err = one.Start(t.Context(), s.ID, warmpool.Start{Mounts: []mount.Mount{data("/data")}})
	require.NoError(t, err)
	w.write(s.ID, append(w.object(s.ID).Spec.Mounts, v1alpha1.Mount{ID: "x", Volume: "pv", Path: "/x"})...)
	want := w.object(s.ID).ResourceVersion
	for _, b := range []*kube.Backend{one, two} {
		require.Eventually(t, func() bool { return b.Knows(s.ID) == want }, 10*time.Second, time.Millisecond)
		got, err := b.Get(t.Context(), s.ID)
		require.NoError(t, err)
		require.Len(t, got.Mounts, 2)
		require.Equal(t, warmpool.MountReady, got.Mounts[0].Phase, "it came with the claim, which was answered")
		require.Equal(t, warmpool.MountPending, got.Mounts[1].Phase, "somebody has just written it")
	}

	// What is told of an earlier mount of its ID is not told of it.
	w.tell(s.ID, v1alpha1.MountStatus{ID: "x", Source: "pv", VolumeHandle: "h", Path: "/earlier", Phase: "Mounted"})
	want = w.object(s.ID).ResourceVersion
	require.Eventually(t, func() bool { return one.Knows(s.ID) == want }, 10*time.Second, time.Millisecond)
	got, err := one.Get(t.Context(), s.ID)
	require.NoError(t, err)
	require.Equal(t, warmpool.MountPending, got.Mounts[1].Phase)
}

func TestAMountThatWasMadeIsNotToldByWhatWasKnownBefore(t *testing.T) {
	w := newWorld(t)
	w.set("base", 1)
	clk := testclock.NewFakeClock(time.Now())
	b := w.replica(func(c *kube.Config) { c.Clock = clk })
	w.stocked(b, "base", 1)
	s, err := create(t.Context(), b, order("base"))
	require.NoError(t, err)
	m := data("/data")
	_, _, err = b.Publish(t.Context(), s.ID, m)
	require.NoError(t, err)
	tells := func(message string) {
		w.tell(s.ID, v1alpha1.MountStatus{ID: m.ID, Source: "pv", VolumeHandle: "h", Path: "/data", Phase: "Failed", Verdict: "dead", Message: message})
		want := w.object(s.ID).ResourceVersion
		require.Eventually(t, func() bool { return b.Knows(s.ID) == want }, 10*time.Second, time.Millisecond)
	}
	requirePhase := func(phase warmpool.MountPhase, why string) {
		t.Helper()
		got, err := b.Get(t.Context(), s.ID)
		require.NoError(t, err)
		require.Equal(t, phase, got.Mounts[0].Phase, why)
	}
	tells("it is gone")
	requirePhase(warmpool.MountFailed, "the controller has looked later")
	st, made, err := b.Publish(t.Context(), s.ID, m)
	require.NoError(t, err)
	require.False(t, made)
	require.Equal(t, warmpool.MountReady, st.Phase)
	got, err := b.Get(t.Context(), s.ID)
	require.NoError(t, err)
	require.Equal(t, st, got.Mounts[0], "as it was answered")
	tells("it is gone again")
	requirePhase(warmpool.MountFailed, "the controller has looked since")
	_, _, err = b.Publish(t.Context(), s.ID, m)
	require.NoError(t, err)
	requirePhase(warmpool.MountReady, "made again")
	clk.Step(2 * time.Minute)
	requirePhase(warmpool.MountFailed, "the controller has looked, and has found nothing else to say")
}
