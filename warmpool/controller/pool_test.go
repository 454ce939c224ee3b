package controller_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
