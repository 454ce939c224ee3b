package controller_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

func TestAPoolIsFilledAndRefilled(t *testing.T) {
	w := newWorld(t)
	s := w.full(w.set("pool", 3))
	all := w.sandboxes("pool")
	require.Len(t, all, 3)
	for _, sb := range all {
		id, ok := warmpool.ParseID(sb.Labels[v1alpha1.LabelSandboxID])
		require.True(t, ok)
		require.Equal(t, "pool-"+string(id[1:11]), sb.Name)
		require.Equal(t, s.UID, metav1.GetControllerOf(&sb).UID)
		require.Equal(t, v1alpha1.PhaseRunning, sb.Status.Phase)
		require.Equal(t, "available", sb.Status.State)
		pod := w.podOf(&sb)
		require.Equal(t, pod.Status.PodIP, sb.Status.SandboxIP)
		require.Equal(t, string(pod.UID), sb.Status.PodInfo.PodUID)
		require.Equal(t, sb.UID, metav1.GetControllerOf(pod).UID)
		require.Equal(t, string(id), pod.Labels[v1alpha1.LabelSandboxID])
		require.Equal(t, "agent", pod.Spec.InitContainers[len(pod.Spec.InitContainers)-1].Name)
		require.Equal(t, sb.Name+"-agent", pod.Spec.Volumes[0].Secret.SecretName)
		require.False(t, *pod.Spec.AutomountServiceAccountToken)
	}
	require.EqualValues(t, 3, s.Status.Replicas)
	require.Equal(t, "True", conditionOf(s, v1alpha1.ConditionInjectionConfigured))

	claimed, err := w.claim(&all[0])
	require.NoError(t, err)
	w.eventually(func(c *assertT) {
		require.Len(c, w.sandboxes("pool"), 4)
		require.NoError(c, w.client.Get(t.Context(), clientKey(s), s))
		require.EqualValues(c, 1, s.Status.ClaimedReplicas)
		require.EqualValues(c, 3, s.Status.AvailableReplicas)
		pod := w.podOf(claimed)
		require.Equal(c, "false", pod.Annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"])
		require.Equal(c, "true", pod.Labels[v1alpha1.LabelClaimed])
		require.Equal(c, "running", w.get(claimed).Status.State)
	})
}

// count counts the controller's writes, and passes them on.
func (w *world) count() (creates *atomic.Int32) {
	creates = &atomic.Int32{}
	w.between.Store(&interceptor.Funcs{Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
		if _, ok := o.(*v1alpha1.Sandbox); ok {
			creates.Add(1)
		}
		return c.Create(ctx, o, opts...)
	}})
	return creates
}

func TestAPoolGrowsAndShrinks(t *testing.T) {
	w := newWorld(t)
	creates := w.count()
	s := w.full(w.set("pool", 4))
	all := w.sandboxes("pool")
	w.always(1100*time.Millisecond, func() bool { return true }) // ages are in whole seconds
	claimed, err := w.claim(&all[0])
	require.NoError(t, err)
	edit(w, s, func(s *v1alpha1.SandboxSet) { s.Spec.Replicas = 12 })
	w.full(s)
	require.EqualValues(t, 13, creates.Load(), "nothing is made twice, however stale the cache is")

	// What is not ready goes first, whatever its age.
	w.status(t.Context(), all[1].Name, func(st *corev1.PodStatus) { st.Conditions[0].Status = corev1.ConditionFalse })
	w.eventually(func(c *assertT) { require.False(c, isReady(w.get(&all[1]))) })
	edit(w, s, func(s *v1alpha1.SandboxSet) { s.Spec.Replicas = 11 })
	w.eventually(func(c *assertT) {
		require.True(c, apierrors.IsNotFound(w.client.Get(t.Context(), clientKey(&all[1]), &v1alpha1.Sandbox{})))
	})
	// Then the newest.
	edit(w, s, func(s *v1alpha1.SandboxSet) { s.Spec.Replicas = 2 })
	w.full(s)
	w.eventually(func(c *assertT) {
		left := w.sandboxes("pool")
		require.Len(c, left, 3)
		for _, sb := range left {
			require.Contains(c, []string{claimed.Name, all[2].Name, all[3].Name}, sb.Name)
		}
	})
	edit(w, s, func(s *v1alpha1.SandboxSet) { s.Spec.Replicas = 0 })
	w.full(s)
	w.eventually(func(c *assertT) { require.Len(c, w.sandboxes("pool"), 1) })
	require.NotNil(t, w.get(claimed).Spec.Claim)
	require.EqualValues(t, 13, creates.Load())
}

func isReady(sb *v1alpha1.Sandbox) bool {
	for _, c := range sb.Status.Conditions {
		if c.Type == v1alpha1.ConditionReady {
			return c.Status == metav1.ConditionTrue
		}
	}
	return false
}

func TestABurstIsBoundedByTheScaleStrategy(t *testing.T) {
	w := newWorld(t)
	var most atomic.Int32
	w.plays(func(*corev1.Pod) *corev1.PodStatus { return nil }) // made ready below
	s := w.set("pool", 20, func(s *v1alpha1.SandboxSet) { s.Spec.ScaleStrategy.MaxUnavailable = ptr.To(intstr.FromString("25%")) })
	w.start(func(ctx context.Context) {
		for ctx.Err() == nil {
			var pods corev1.PodList
			if w.client.List(ctx, &pods, client.InNamespace(w.ns)) != nil {
				return
			}
			making := int32(0)
			for i := range pods.Items {
				if pods.Items[i].Status.PodIP == "" {
					making++
				}
			}
			most.Store(max(most.Load(), making))
			for i := range pods.Items {
				if p := &pods.Items[i]; p.Status.PodIP == "" && making >= min(5, int32(20-ready(pods.Items))) {
					w.plays(running)
					w.run(ctx, p)
				}
			}
		}
	})
	w.full(s)
	require.LessOrEqual(t, most.Load(), int32(5))
}

func ready(pods []corev1.Pod) (n int) {
	for i := range pods {
		if pods[i].Status.PodIP != "" {
			n++
		}
	}
	return n
}

var errLost = errors.New("http2: client connection lost")

func TestALostAnswerMakesNothingTwice(t *testing.T) {
	w := newWorld(t)
	var calls atomic.Int32
	w.between.Store(&interceptor.Funcs{Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
		switch n := calls.Add(1); {
		case n%3 == 0: // done, and the answer is lost
			_ = c.Create(ctx, o, opts...)
			return errLost
		case n%5 == 0: // not done, and nobody knows
			return errLost
		}
		return c.Create(ctx, o, opts...)
	}})
	s := w.full(w.set("pool", 10))
	w.always(2*time.Second, func() bool { return len(w.sandboxes("pool")) == 10 })
	w.pods.Lock()
	defer w.pods.Unlock()
	require.Len(t, w.pods.made, 10, "%v", s.Status)
	for name, n := range w.pods.made {
		require.Equal(t, 1, n, name)
	}
}

func TestAClaimWinsAgainstAScaleDown(t *testing.T) {
	w := newWorld(t)
	s := w.full(w.set("pool", 6))
	var claimed sync.Map
	var n atomic.Int32
	w.between.Store(&interceptor.Funcs{Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
		if sb, ok := o.(*v1alpha1.Sandbox); ok && n.Add(1) <= 3 { // in the moment before it is deleted
			if got, err := w.claim(w.get(sb)); err == nil {
				claimed.Store(got.Name, true)
			}
		}
		return c.Delete(ctx, o, opts...)
	}})
	edit(w, s, func(s *v1alpha1.SandboxSet) { s.Spec.Replicas = 1 })
	w.full(s)
	w.eventually(func(c *assertT) { require.Len(c, w.sandboxes("pool"), 1+3) })
	claimed.Range(func(name, _ any) bool {
		sb := &v1alpha1.Sandbox{}
		require.NoError(t, w.client.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: fmt.Sprint(name)}, sb))
		require.Nil(t, sb.DeletionTimestamp)
		return true
	})
}

func TestARevisionIsRolledGradually(t *testing.T) {
	w := newWorld(t)
	s := w.full(w.set("pool", 10))
	first := s.Status.UpdateRevision
	all := w.sandboxes("pool")
	claimed, err := w.claim(&all[0])
	require.NoError(t, err)
	w.full(s)
	w.eventually(func(c *assertT) { require.Len(c, w.sandboxes("pool"), 11) })

	least := int32(10)
	stop := w.start(func(ctx context.Context) {
		for ctx.Err() == nil {
			n := int32(0)
			var list v1alpha1.SandboxList
			if w.client.List(ctx, &list, client.InNamespace(w.ns)) != nil {
				return
			}
			for i := range list.Items {
				if sb := &list.Items[i]; sb.Spec.Claim == nil && sb.DeletionTimestamp == nil && isReady(sb) {
					n++
				}
			}
			least = min(least, n)
		}
	})
	edit(w, s, func(s *v1alpha1.SandboxSet) { s.Spec.Template = template("image:2") })
	w.full(s)
	stop()
	require.NotEqual(t, first, s.Status.UpdateRevision)
	require.GreaterOrEqual(t, least, int32(8), "at most a fifth is missing")
	require.Less(t, least, int32(10))
	for _, sb := range w.sandboxes("pool") {
		if sb.DeletionTimestamp != nil {
			continue
		}
		if sb.Name == claimed.Name {
			require.Equal(t, first, sb.Labels[v1alpha1.LabelRevision])
			continue
		}
		require.Equal(t, s.Status.UpdateRevision, sb.Labels[v1alpha1.LabelRevision])
	}
}

func TestABrokenInjectionConfigurationChangesNothingButItsCondition(t *testing.T) {
	w := newWorld(t)
	s := w.full(w.set("pool", 3))
	plain := w.full(w.set("plain", 1, func(s *v1alpha1.SandboxSet) { s.Spec.Runtimes = nil }))
	revision, names := s.Status.UpdateRevision, fmt.Sprint(names(w.sandboxes("pool")))

	require.Error(t, w.injection.Set(map[string]string{"csi": "{", "agent-runtime": runtimes["agent-runtime"]}))
	w.eventually(func(c *assertT) {
		require.NoError(c, w.client.Get(t.Context(), clientKey(s), s))
		broken := condition(s, v1alpha1.ConditionInjectionConfigured)
		require.Equal(c, metav1.ConditionFalse, broken.Status)
		require.Contains(c, broken.Message, "csi")
		require.Contains(c, w.events("pool"), "InjectionInvalid")
	})
	require.Equal(t, "True", conditionOf(s, v1alpha1.ConditionFilled))
	require.Equal(t, revision, s.Status.UpdateRevision)
	require.Equal(t, names, fmt.Sprint(w.namesOf("pool")))
	require.Empty(t, condition(plain, v1alpha1.ConditionInjectionConfigured).Type, "who injects nothing is not concerned")
	// The last good one is in force: stock is made with it.
	one := w.sandboxes("pool")[0]
	_, err := w.claim(&one)
	require.NoError(t, err)
	w.eventually(func(c *assertT) { require.Len(c, w.sandboxes("pool"), 4) })
	w.full(s)

	repaired := map[string]string{"csi": strings.ReplaceAll(runtimes["csi"], "agent:1", "agent:2"), "agent-runtime": runtimes["agent-runtime"]}
	require.NoError(t, w.injection.Set(repaired))
	w.eventually(func(c *assertT) {
		require.NoError(c, w.client.Get(t.Context(), clientKey(s), s))
		require.NotEqual(c, revision, s.Status.UpdateRevision)
	})
	w.full(s)
	require.Equal(t, "True", conditionOf(s, v1alpha1.ConditionInjectionConfigured))
}

func names(all []v1alpha1.Sandbox) (out []string) {
	for _, sb := range all {
		out = append(out, sb.Name)
	}
	return out
}

func (w *world) namesOf(pool string) []string { return names(w.sandboxes(pool)) }

func TestWhatCannotBeMadeIsNotMade(t *testing.T) {
	w, n := newWorld(t), 0
	for name, c := range map[string]struct {
		change  func(*v1alpha1.SandboxSet)
		reason  string
		message string
	}{
		"a runtime that the ConfigMap lacks": {func(s *v1alpha1.SandboxSet) { s.Spec.Runtimes = []v1alpha1.Runtime{{Name: "gpu"}} }, "InjectionNotConfigured", `"gpu"`},
		"a template that breaks the walls":   {func(s *v1alpha1.SandboxSet) { s.Spec.Template.Spec.HostPID = true }, "InjectionImpossible", "hostPID"},
		"a template without a container":     {func(s *v1alpha1.SandboxSet) { s.Spec.Template.Spec.Containers = nil }, "InvalidTemplate", "containers"},
		"a volume in a reserved place": {func(s *v1alpha1.SandboxSet) {
			s.Spec.Volumes = []v1alpha1.PoolVolume{{Name: "v", MountPath: "/usr/v", PersistentVolume: &v1alpha1.PersistentVolumeSource{Name: "pv"}}}
		}, "InvalidVolumes", "spec.volumes[0].mountPath"},
		"volumes with more places than a sandbox may have mounts": {func(s *v1alpha1.SandboxSet) {
			for i := range 17 {
				s.Spec.Volumes = append(s.Spec.Volumes, v1alpha1.PoolVolume{
					Name: fmt.Sprint("v", i), MountPath: fmt.Sprint("/data/", i), PersistentVolume: &v1alpha1.PersistentVolumeSource{Name: "pv"},
				})
			}
		}, "InvalidVolumes", "spec.volumes: they have 17 places"},
	} {
		t.Run(name, func(t *testing.T) {
			n++
			s := w.set(fmt.Sprint("pool-", n), 2, c.change)
			w.eventually(func(a *assertT) {
				require.NoError(a, w.client.Get(t.Context(), clientKey(s), s))
				filled := condition(s, v1alpha1.ConditionFilled)
				require.Equal(a, c.reason, filled.Reason)
				require.Contains(a, filled.Message, c.message)
				require.Contains(a, w.events(s.Name), c.reason)
			})
			require.Empty(t, w.sandboxes(s.Name))
		})
	}
}

func TestATemplateThatFailsIsTriedLessAndLess(t *testing.T) {
	w := newWorld(t)
	creates := w.count()
	w.plays(func(p *corev1.Pod) *corev1.PodStatus {
		s := running(p)
		s.Phase, s.Conditions = corev1.PodFailed, nil
		s.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3, Reason: "Error"}}
		return s
	})
	s := w.set("pool", 4)
	w.eventually(func(c *assertT) {
		require.NoError(c, w.client.Get(t.Context(), clientKey(s), s))
		filled := condition(s, v1alpha1.ConditionFilled)
		require.Equal(c, "SandboxFailed", filled.Reason)
		require.Contains(c, filled.Message, "container sandbox ended with exit code 3")
		require.Contains(c, w.events("pool"), "exit code 3")
	})
	w.always(6*time.Second, func() bool { return creates.Load() <= 4+4 }, "after the first four one at a time, with pauses of 1, 2, 4 s")
	w.plays(running)
	edit(w, s, func(s *v1alpha1.SandboxSet) { s.Spec.Template = template("image:2") })
	w.full(s)
}

func TestStockThatWaitsForItsImageSaysSo(t *testing.T) {
	w := newWorld(t)
	w.plays(func(p *corev1.Pod) *corev1.PodStatus {
		s := running(p)
		s.Phase, s.PodIP, s.PodIPs = corev1.PodPending, "", nil
		s.Conditions = nil
		s.ContainerStatuses[0] = corev1.ContainerStatus{Name: "sandbox", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{
			Reason: "ImagePullBackOff", Message: `Back-off pulling image "https://u:pw@reg/image?sig=s3cret": not found`,
		}}}
		return s
	})
	creates := w.count()
	s := w.set("pool", 2)
	w.eventually(func(c *assertT) {
		require.NoError(c, w.client.Get(t.Context(), clientKey(s), s))
		filled := condition(s, v1alpha1.ConditionFilled)
		require.Equal(c, "ImagePullBackOff", filled.Reason)
		require.Contains(c, filled.Message, "not found")
		require.NotContains(c, filled.Message, "s3cret")
		require.NotContains(c, filled.Message, "pw@")
	})
	one := w.sandboxes("pool")[0]
	require.Equal(t, "failed", one.Status.State)
	require.Equal(t, v1alpha1.PhasePending, one.Status.Phase, "the kubelet goes on trying")
	for _, sb := range w.sandboxes("pool") {
		w.status(t.Context(), sb.Name, func(st *corev1.PodStatus) { *st = *running(w.podOf(&sb)) })
	}
	w.full(s)
	require.EqualValues(t, 2, creates.Load())
}

func TestWhatPodSecurityRefusesIsTold(t *testing.T) {
	w := newWorld(t)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}
	edit(w, ns, func(ns *corev1.Namespace) { ns.Labels["pod-security.kubernetes.io/enforce"] = "restricted" })
	s := w.set("pool", 2)
	w.eventually(func(c *assertT) {
		require.NoError(c, w.client.Get(t.Context(), clientKey(s), s))
		filled := condition(s, v1alpha1.ConditionFilled)
		require.Equal(c, "PodRefused", filled.Reason)
		require.Contains(c, filled.Message, "violates PodSecurity")
	})
	edit(w, ns, func(ns *corev1.Namespace) { delete(ns.Labels, "pod-security.kubernetes.io/enforce") })
	w.full(s)
}

func TestAnotherControllerTakesOver(t *testing.T) {
	w := newWorld(t, func(w *world) { w.plays(func(*corev1.Pod) *corev1.PodStatus { return nil }) })
	s := w.set("pool", 8)
	w.eventually(func(c *assertT) { require.GreaterOrEqual(c, len(w.sandboxes("pool")), 4) })
	w.stop() // in the middle of it
	w.plays(running)
	var pods corev1.PodList
	require.NoError(t, w.client.List(t.Context(), &pods, client.InNamespace(w.ns)))
	for i := range pods.Items {
		w.run(t.Context(), &pods.Items[i])
	}
	w.control()
	w.full(s)
	require.Len(t, w.sandboxes("pool"), 8)
}

func TestOnlyItsOwnReferenceMakesASandboxASetsOwn(t *testing.T) {
	w := newWorld(t)
	stranger := &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "stranger", Labels: map[string]string{v1alpha1.LabelPool: "pool"}},
		Spec:       v1alpha1.SandboxSpec{Template: ptr.To(template("image:0"))},
	}
	require.NoError(t, w.client.Create(t.Context(), stranger))
	s := w.full(w.set("pool", 2))
	require.Len(t, w.sandboxes("pool"), 3)
	edit(w, s, func(s *v1alpha1.SandboxSet) { s.Spec.Replicas = 0 })
	w.full(s)
	w.eventually(func(c *assertT) { require.Equal(c, []string{"stranger"}, w.namesOf("pool")) })
	require.Equal(t, "running", w.get(stranger).Status.State, "it is nobody's stock")
}

func TestASetThatIsDeletedMakesNothingMore(t *testing.T) {
	w := newWorld(t)
	s := w.full(w.set("pool", 2))
	all := w.sandboxes("pool")
	require.NoError(t, w.client.Delete(t.Context(), s))
	require.NoError(t, w.client.Delete(t.Context(), &all[0])) // as the garbage collector does
	w.eventually(func(c *assertT) { require.Len(c, w.sandboxes("pool"), 1) })
	w.always(time.Second, func() bool { return len(w.sandboxes("pool")) == 1 })
}

func TestAPoolWithoutRoomIsWorthAWait(t *testing.T) {
	w := newWorld(t)
	w.plays(func(*corev1.Pod) *corev1.PodStatus {
		return &corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/1 nodes are available: 1 Insufficient cpu.",
		}}}
	})
	s := w.set("pool", 2)
	w.eventually(func(c *assertT) {
		require.NoError(c, w.client.Get(t.Context(), clientKey(s), s))
		filled := condition(s, v1alpha1.ConditionFilled)
		require.Equal(c, v1alpha1.ReasonUnschedulable, filled.Reason)
		require.True(c, v1alpha1.Passing(filled.Reason))
		require.Contains(c, filled.Message, "Insufficient cpu")
		require.Contains(c, w.events("pool"), "Insufficient cpu")
	})
}

func TestTheKubeletsTriesAreNoNews(t *testing.T) {
	w := newWorld(t)
	pulls := func(reason, message string) func(*corev1.PodStatus) {
		return func(s *corev1.PodStatus) {
			s.Phase = corev1.PodPending
			s.ContainerStatuses = []corev1.ContainerStatus{{Name: "sandbox", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}
		}
	}
	w.plays(func(*corev1.Pod) *corev1.PodStatus { return nil })
	sb := w.sandbox("mine")
	for range 2 {
		w.eventually(func(c *assertT) {
			w.status(t.Context(), "mine", pulls("ImagePullBackOff", "not found"))
			require.Equal(c, "failed", w.get(sb).Status.State)
		})
		version := w.get(sb).ResourceVersion
		w.status(t.Context(), "mine", pulls("ErrImagePull", "GET: 404"))
		w.always(300*time.Millisecond, func() bool { return w.get(sb).ResourceVersion == version })
	}
}
