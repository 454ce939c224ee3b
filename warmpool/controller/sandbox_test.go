package controller_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// sandbox makes a Sandbox by hand.
func (w *world) sandbox(name string, change ...func(*v1alpha1.Sandbox)) *v1alpha1.Sandbox {
	w.t.Helper()
	sb := &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name},
		Spec: v1alpha1.SandboxSpec{
			Runtimes: []v1alpha1.Runtime{{Name: "csi"}, {Name: "agent-runtime"}}, Template: ptr.To(template("image:1")),
		},
	}
	for _, f := range change {
		f(sb)
	}
	require.NoError(w.t, w.client.Create(w.t.Context(), sb))
	return sb
}

func claimed(sb *v1alpha1.Sandbox) {
	sb.Spec.Claim = &v1alpha1.Claim{Principal: v1alpha1.Principal{Team: "red"}, Nonce: "n", Time: metav1.NowMicro()}
}

// ready waits until a sandbox is.
func (w *world) ready(sb *v1alpha1.Sandbox) *v1alpha1.Sandbox {
	w.t.Helper()
	w.eventually(func(c *assertT) {
		require.NoError(c, w.client.Get(w.t.Context(), clientKey(sb), sb))
		require.True(c, isReady(sb), "%+v", sb.Status)
	})
	return sb
}

func (w *world) failed(sb *v1alpha1.Sandbox, message string) *v1alpha1.Sandbox {
	w.t.Helper()
	w.eventually(func(c *assertT) {
		require.NoError(c, w.client.Get(w.t.Context(), clientKey(sb), sb))
		require.Equal(c, "failed", sb.Status.State)
		require.Contains(c, sb.Status.Message, message)
		require.Contains(c, w.events(sb.Name), message)
	})
	return sb
}

func (w *world) gone(o client.Object) {
	w.t.Helper()
	w.eventually(func(c *assertT) {
		require.True(c, apierrors.IsNotFound(w.client.Get(w.t.Context(), clientKey(o), o)))
	})
}

func TestASandboxMadeByHandComesToLife(t *testing.T) {
	w := newWorld(t)
	sb := w.ready(w.sandbox("mine"))
	_, ok := warmpool.ParseID(sb.Labels[v1alpha1.LabelSandboxID])
	require.True(t, ok)
	require.Contains(t, sb.Finalizers, v1alpha1.FinalizerMounts)
	require.Equal(t, "running", sb.Status.State)
	require.Equal(t, sb.Labels[v1alpha1.LabelSandboxID], w.podOf(sb).Labels[v1alpha1.LabelSandboxID])
	require.NoError(t, w.client.Delete(t.Context(), sb))
	w.gone(sb)
	require.True(t, apierrors.IsNotFound(w.client.Get(t.Context(), clientKey(sb), &corev1.Pod{})), "the pod goes before")
}

func TestASandboxEndsAtItsDeadline(t *testing.T) {
	w := newWorld(t)
	end := time.Now().Add(3 * time.Second).Truncate(time.Second)
	sb := w.ready(w.sandbox("brief", func(sb *v1alpha1.Sandbox) { sb.Spec.ShutdownTime = &metav1.Time{Time: end} }))
	later := edit(w, w.sandbox("moved", func(sb *v1alpha1.Sandbox) { sb.Spec.ShutdownTime = &metav1.Time{Time: end} }), func(sb *v1alpha1.Sandbox) {
		sb.Spec.ShutdownTime = &metav1.Time{Time: end.Add(time.Hour)}
	})
	w.eventually(func(c *assertT) {
		err := w.client.Get(t.Context(), clientKey(sb), sb)
		require.True(c, apierrors.IsNotFound(err) || sb.DeletionTimestamp != nil)
	})
	require.False(t, time.Now().Before(end))
	require.Less(t, time.Since(end), 2*time.Second)
	w.gone(sb)
	w.ready(later)
}

func TestWhatASandboxCannotHaveIsTold(t *testing.T) {
	w := newWorld(t)
	ref := w.sandbox("ref", func(sb *v1alpha1.Sandbox) {
		sb.Spec.Template, sb.Spec.TemplateRef = nil, &v1alpha1.TemplateRef{Name: "t"}
	})
	w.failed(ref, "spec.templateRef is not supported")
	w.failed(w.sandbox("nothing", func(sb *v1alpha1.Sandbox) { sb.Spec.Template = nil }), "spec.template has no container")
	w.failed(w.sandbox("claims", func(sb *v1alpha1.Sandbox) {
		sb.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "x"}}}
	}), "spec.volumeClaimTemplates")
	w.failed(w.sandbox("unknown", func(sb *v1alpha1.Sandbox) { sb.Spec.Runtimes = []v1alpha1.Runtime{{Name: "gpu"}} }), `"gpu"`)

	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "taken"}, Spec: template("i").Spec}
	require.NoError(t, w.client.Create(t.Context(), pod))
	w.failed(w.sandbox("taken"), "not this sandbox's")
	require.NoError(t, w.client.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "secret-agent"}, Data: map[string][]byte{"a": []byte("b")}}))
	w.failed(w.sandbox("secret"), "the Secret of its agent was refused")
	var secret corev1.Secret
	require.NoError(t, w.client.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: "secret-agent"}, &secret))
	require.Equal(t, []byte("b"), secret.Data["a"], "somebody else's is left alone")

	edit(w, ref, func(sb *v1alpha1.Sandbox) { sb.Spec.TemplateRef, sb.Spec.Template = nil, ptr.To(template("i")) })
	w.ready(ref)
}

func TestALostAnswerMakesNoPodTwice(t *testing.T) {
	w := newWorld(t)
	var calls atomic.Int32
	w.between.Store(&interceptor.Funcs{Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
		if calls.Add(1)%2 == 1 {
			_ = c.Create(ctx, o, opts...)
			return errLost
		}
		return c.Create(ctx, o, opts...)
	}})
	w.ready(w.sandbox("one"))
	w.ready(w.sandbox("two"))
	w.pods.Lock()
	defer w.pods.Unlock()
	require.Equal(t, map[string]int{"one": 1, "two": 1}, w.pods.made)
}

func TestTheIdentityOfAnAgentIsRenewed(t *testing.T) {
	w := newWorld(t)
	sb := w.ready(w.sandbox("mine"))
	var secret corev1.Secret
	key := client.ObjectKey{Namespace: w.ns, Name: "mine-agent"}
	require.NoError(t, w.client.Get(t.Context(), key, &secret))
	require.Equal(t, sb.UID, metav1.GetControllerOf(&secret).UID)
	require.InDelta(t, 60*24, time.Until(sb.Status.IdentityRenewal.Time).Hours(), 1)
	before := string(secret.Data["tls.crt"])

	old := sb.DeepCopy()
	sb.Status.IdentityRenewal = &metav1.Time{Time: time.Now().Add(-time.Second)}
	require.NoError(t, w.client.Status().Patch(t.Context(), sb, client.MergeFrom(old)))
	w.status(t.Context(), "mine", func(s *corev1.PodStatus) { s.Message = "anything" }) // wakes it
	w.eventually(func(c *assertT) {
		require.NoError(c, w.client.Get(t.Context(), key, &secret))
		require.NotEqual(c, before, string(secret.Data["tls.crt"]))
		require.InDelta(c, 60*24, time.Until(w.get(sb).Status.IdentityRenewal.Time).Hours(), 1)
	})
}

func TestAPodThatOthersEndIsNotMadeAgain(t *testing.T) {
	w := newWorld(t)
	for name, end := range map[string]func(pod *corev1.Pod){
		"deleted": func(pod *corev1.Pod) { require.NoError(t, w.client.Delete(t.Context(), pod)) },
		"deleted at once": func(pod *corev1.Pod) {
			require.NoError(t, w.client.Delete(t.Context(), pod, client.GracePeriodSeconds(0)))
		},
		"evicted": func(pod *corev1.Pod) {
			require.NoError(t, w.client.SubResource("eviction").Create(t.Context(), pod, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace}}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			names := map[string]string{"deleted": "a", "deleted at once": "b", "evicted": "c"}
			sb := w.ready(w.sandbox(names[name], claimed))
			end(w.podOf(sb))
			w.failed(sb, "outside volumes is gone")
			if name == "evicted" {
				require.Contains(t, sb.Status.Message, "it was evicted")
			}
			w.always(time.Second, func() bool {
				sb := w.get(sb)
				w.pods.Lock()
				defer w.pods.Unlock()
				return w.pods.made[sb.Name] == 1 && sb.Status.Phase == v1alpha1.PhaseFailed
			})
		})
	}
}

func TestStockWhosePodIsGoneIsReplaced(t *testing.T) {
	w := newWorld(t)
	s := w.full(w.set("pool", 2))
	all := w.sandboxes("pool")
	require.NoError(t, w.client.Delete(t.Context(), w.podOf(&all[0]), client.GracePeriodSeconds(0)))
	w.gone(&all[0])
	w.full(s)
	require.Len(t, w.sandboxes("pool"), 2)
}

func TestAContainerThatFallsBackIsToldAndComesBack(t *testing.T) {
	w := newWorld(t)
	sb := w.ready(w.sandbox("mine", claimed))
	w.status(t.Context(), "mine", func(s *corev1.PodStatus) {
		s.Conditions[0].Status = corev1.ConditionFalse
		c := &s.ContainerStatuses[0]
		c.Ready, c.RestartCount = false, 1
		c.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}
	})
	w.eventually(func(c *assertT) {
		now := w.get(sb)
		require.False(c, isReady(now))
		require.Equal(c, "running", now.Status.State)
		require.Contains(c, now.Status.Message, "used more memory than its limit")
	})
	w.status(t.Context(), "mine", func(s *corev1.PodStatus) {
		s.Conditions[0].Status, s.ContainerStatuses[0].Ready = corev1.ConditionTrue, true
	})
	w.ready(sb)
	require.Empty(t, sb.Status.Message)
}

func TestNothingIsWrittenWhileAClaimIsBeingAnswered(t *testing.T) {
	w := newWorld(t, func(w *world) { w.times.Settle = 2 * time.Second })
	s := w.full(w.set("pool", 1))
	one := w.sandboxes("pool")[0]
	sb, err := w.claim(&one)
	require.NoError(t, err)
	edit(w, s, func(s *v1alpha1.SandboxSet) { s.Spec.Replicas = 0 })
	w.always(time.Second, func() bool {
		return w.get(sb).ResourceVersion == sb.ResourceVersion && w.podOf(sb).Labels[v1alpha1.LabelClaimed] == ""
	})
	w.eventually(func(c *assertT) {
		require.Equal(c, "running", w.get(sb).Status.State)
		require.Equal(c, "true", w.podOf(sb).Labels[v1alpha1.LabelClaimed])
	})
}

func TestAClaimByHandIsAClaim(t *testing.T) {
	w := newWorld(t)
	s := w.full(w.set("pool", 1))
	sb := w.sandboxes("pool")[0]
	edit(w, &sb, claimed)
	w.eventually(func(c *assertT) {
		now := w.get(&sb)
		require.Empty(c, now.OwnerReferences, "its set's end is not its own")
		require.Equal(c, "true", now.Labels[v1alpha1.LabelClaimed])
	})
	w.eventually(func(c *assertT) {
		require.NoError(c, w.client.Get(t.Context(), clientKey(s), s))
		require.EqualValues(c, 1, s.Status.ClaimedReplicas)
		require.EqualValues(c, 1, s.Status.AvailableReplicas)
	})
}

func TestWhatMayBeOverInAMomentIsNotWritten(t *testing.T) {
	const moment = 2 * time.Second
	w := newWorld(t)
	var early, deletions atomic.Int32
	w.between.Store(&interceptor.Funcs{
		SubResourcePatch: func(ctx context.Context, c client.Client, name string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			if sb, ok := o.(*v1alpha1.Sandbox); ok {
				ready := meta.FindStatusCondition(sb.Status.Conditions, v1alpha1.ConditionReady)
				starting := ready != nil && ready.Reason == v1alpha1.ReasonStarting && time.Since(sb.CreationTimestamp.Time) < moment
				ending := sb.Status.State == string(warmpool.Terminating) && time.Since(sb.DeletionTimestamp.Time) < moment
				if starting || ending {
					early.Add(1)
				}
			}
			return c.SubResource(name).Patch(ctx, o, p, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			if _, ok := o.(*corev1.Pod); ok {
				deletions.Add(1)
			}
			return c.Delete(ctx, o, opts...)
		},
	})
	quick := w.ready(w.sandbox("quick", claimed))
	require.NoError(t, w.client.Delete(t.Context(), quick))
	w.gone(quick)
	require.EqualValues(t, 1, deletions.Load(), "nor is a pod deleted again that is about to go")

	w.plays(func(*corev1.Pod) *corev1.PodStatus { return nil })
	slow := w.sandbox("slow")
	w.eventually(func(c *assertT) { require.Equal(c, "creating", w.get(slow).Status.State) }, "what takes its time is told")
	require.Zero(t, early.Load())
}
