package controller_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

func TestVolumesGoBeforeThePod(t *testing.T) {
	w := newWorld(t)
	sb := w.handedOut("pool", dataA())
	w.phases(sb, "a Mounted")
	known := sb.DeepCopy()
	w.fitter.with(func(f *fitter) {
		f.leave = func(string) error {
			if w.podOf(known).DeletionTimestamp != nil {
				return fmt.Errorf("too late")
			}
			return nil
		}
	})
	require.NoError(t, w.client.Delete(t.Context(), sb))
	w.gone(sb)
	require.Empty(t, w.fitter.mounted(sb))
	require.Equal(t, 1, w.fitter.count("unpublish h-pv-a /data/a"))
	require.NotContains(t, w.events(sb.Name), "MountsAbandoned")
}

func TestVolumesThatNobodyHasLookedAtYetAreDetached(t *testing.T) {
	w := newWorld(t, func(w *world) { w.times.Settle = time.Hour })
	sb := w.handedOut("pool", dataA())
	require.NoError(t, w.client.Delete(t.Context(), sb)) // as the gateway does when a create fails
	w.gone(sb)
	require.Equal(t, 1, w.fitter.count("unpublish h-pv-a /data/a"))
}

func TestAMountInAnothersPlaceThatNobodyHasLookedAtYetIsDetached(t *testing.T) {
	for name, next := range map[string]v1alpha1.Mount{
		"the same volume at another path": {ID: "a", Volume: "pv-a", Path: "/data/b"},
		"another volume at the same path": {ID: "a", Volume: "pv-b", Path: "/data/a"},
		"another mount":                   {ID: "b", Volume: "pv-b", Path: "/data/a"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			sb := w.replaced(next)
			w.control()
			w.gone(sb)
			require.Empty(t, w.fitter.mounted(sb))
			require.NotContains(t, w.events(sb.Name), "MountsAbandoned")
		})
	}
}

// replaced is a sandbox that was deleted after its gateway has unmounted the one mount and mounted another, before anybody has looked.
func (w *world) replaced(next v1alpha1.Mount) *v1alpha1.Sandbox {
	w.t.Helper()
	sb := w.handedOut("pool", dataA())
	w.phases(sb, "a Mounted")
	w.stop()
	w.fitter.with(func(f *fitter) { f.agents[sb.UID].mounts = map[string]string{"h-" + next.Volume + " " + next.Path: ""} })
	edit(w, sb, func(sb *v1alpha1.Sandbox) { sb.Spec.Mounts = []v1alpha1.Mount{asked(next)} })
	require.NoError(w.t, w.client.Delete(w.t.Context(), sb))
	return sb
}

func TestAMountThatItsOwnerMayNotHaveAnyMoreIsDetachedAtTheEnd(t *testing.T) {
	w := newWorld(t)
	sb := w.replaced(v1alpha1.Mount{ID: "a", Volume: "pv-b", Path: "/data/a"})
	w.volumes.mu.Lock()
	w.volumes.all["pv-b"].Annotations = map[string]string{"sandgate.dev/teams": "blue"}
	w.volumes.mu.Unlock()
	w.control()
	w.gone(sb)
	require.Empty(t, w.fitter.mounted(sb))
	require.NotContains(t, w.events(sb.Name), "MountsAbandoned")
}

func TestAMountWhoseVolumeNobodyKnowsAnyMoreIsToldAtTheEnd(t *testing.T) {
	w := newWorld(t)
	sb := w.replaced(v1alpha1.Mount{ID: "a", Volume: "pv-b", Path: "/data/a"})
	w.volumes.mu.Lock()
	delete(w.volumes.all, "pv-b")
	w.volumes.mu.Unlock()
	w.control()
	w.gone(sb)
	w.eventually(func(c *assertT) {
		require.Regexp(c, "MountsAbandoned .* cannot be looked up any more.*: pv-b at /data/a", w.events(sb.Name))
	})
}

func TestWhatMayBeLostIsTold(t *testing.T) {
	w := newWorld(t)
	sb := w.handedOut("pool", dataA())
	w.phases(sb, "a Mounted")
	w.fitter.with(func(f *fitter) { f.leave = func(string) error { return node.ErrDataLoss } })
	require.NoError(t, w.client.Delete(t.Context(), sb))
	w.gone(sb)
	w.eventually(func(c *assertT) { require.Contains(c, w.events(sb.Name), "DataLoss volume pv-a at /data/a") })
}

func TestAnAgentThatHangsHoldsNothingUpForEver(t *testing.T) {
	w := newWorld(t, func(w *world) { w.times.Detach = 6 * time.Second })
	var all []*v1alpha1.Sandbox
	s := w.full(w.set("pool", 30)) // more than there are workers
	for _, sb := range w.sandboxes("pool") {
		a, _ := w.fitter.agent(t.Context(), &sb, "")
		w.fitter.with(func(*fitter) { a.mounts["h-pv-a /data/a"] = "" })
		got, err := w.claim(&sb, dataA())
		require.NoError(t, err)
		all = append(all, got)
	}
	edit(w, s, func(s *v1alpha1.SandboxSet) { s.Spec.Replicas = 0 })
	for _, sb := range all {
		w.phases(sb, "a Mounted")
	}
	w.fitter.with(func(f *fitter) { f.hang = true })
	began := time.Now()
	for _, sb := range all {
		require.NoError(t, w.client.Delete(t.Context(), sb))
	}
	w.ready(w.sandbox("other"))
	require.Less(t, time.Since(began), 6*time.Second, "nobody else waits")
	w.eventually(func(c *assertT) {
		require.NoError(c, w.client.Get(t.Context(), clientKey(all[0]), all[0]), "they are still at it")
		require.Equal(c, "terminating", all[0].Status.State)
	})
	for _, sb := range all {
		w.gone(sb)
	}
	require.Less(t, time.Since(began), 20*time.Second)
	w.eventually(func(c *assertT) {
		require.Contains(c, w.events(all[0].Name), "MountsAbandoned not detached in time, last writes may be missing: pv-a at /data/a")
	})
}

func TestAPodThatDoesNotEndHoldsItsSandboxUpNotForEver(t *testing.T) {
	w := newWorld(t)
	sb := w.ready(w.sandbox("mine", claimed))
	w.stuck.Store(true)
	require.NoError(t, w.client.Delete(t.Context(), sb))
	w.always(time.Second, func() bool {
		return !apierrors.IsNotFound(w.client.Get(t.Context(), clientKey(sb), &v1alpha1.Sandbox{}))
	})
	w.gone(sb)
	w.eventually(func(c *assertT) { require.Contains(c, w.events("mine"), "PodAbandoned") })
}

func TestASandboxWhosePodIsGoneAlreadyGoesAtOnce(t *testing.T) {
	w := newWorld(t)
	sb := w.ready(w.sandbox("mine", claimed))
	require.NoError(t, w.client.Delete(t.Context(), w.podOf(sb)))
	w.failed(sb, "gone")
	require.NoError(t, w.client.Delete(t.Context(), sb))
	w.gone(sb)
}
