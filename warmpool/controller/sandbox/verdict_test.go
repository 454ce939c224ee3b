package sandbox

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func waitingFor(reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
}

func exit(code int32, reason string) *corev1.ContainerStateTerminated {
	return &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason}
}

func disruption(reason string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		now := metav1.NewTime(noon)
		p.DeletionTimestamp = &now
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: "node-7.internal says so",
		})
	}
}

func TestAPodsTroublesAreToldInWords(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		phase  v1alpha1.SandboxPhase
		reason string
		failed bool
		says   string
		hides  string
	}{
		"just made": {nil, v1alpha1.PhasePending, "Starting", false, "", ""},
		"long in the making": {func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(noon.Add(-2 * time.Minute)) },
			v1alpha1.PhasePending, "Stalled", false, "more than a minute", ""},
		"its agent is long not ready": {func(p *corev1.Pod) {
			p.CreationTimestamp = metav1.NewTime(noon.Add(-2 * time.Minute))
			p.Status.Phase = corev1.PodRunning
			p.Status.ContainerStatuses[0].Ready = true
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "agent"}}
		}, v1alpha1.PhasePending, "Stalled", false, "container agent is not ready", ""},
		"no node has room": {func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/1 nodes are available: 1 Insufficient cpu."}}
		}, v1alpha1.PhasePending, "Unschedulable", false, "Insufficient cpu", ""},
		"its image is pulled":                        {waitingFor("ContainerCreating", ""), v1alpha1.PhasePending, "Starting", false, "", ""},
		"its image is not there, for the first time": {waitingFor("ErrImagePull", "not found"), v1alpha1.PhasePending, "ErrImagePull", false, "not found", ""},
		"its image is not there": {waitingFor("ImagePullBackOff", `Back-off pulling image "reg/x:1": unexpected status from GET https://user:hunter2@blob/x?X-Amz-Signature=abcdef: 403`),
			v1alpha1.PhasePending, "ImagePullBackOff", true, `image "reg/x:1"`, "hunter2"},
		"a presigned address":           {waitingFor("ImagePullBackOff", `GET https://blob/x?X-Amz-Signature=abcdef: 403`), v1alpha1.PhasePending, "ImagePullBackOff", true, "403", "abcdef"},
		"its image has no such program": {waitingFor("RunContainerError", `exec: "foo": executable file not found in $PATH`), v1alpha1.PhasePending, "RunContainerError", true, "foo", ""},
		"its Secret is not there":       {waitingFor("CreateContainerConfigError", `secret "x" not found`), v1alpha1.PhasePending, "CreateContainerConfigError", true, `secret "x" not found`, ""},
		"it ends again and again": {func(p *corev1.Pod) {
			waitingFor("CrashLoopBackOff", "back-off 5m0s restarting failed container=sandbox pod=x_y(uid)")(p)
			p.Status.Phase = corev1.PodRunning
			p.Status.ContainerStatuses[0].RestartCount = 4
			p.Status.ContainerStatuses[0].LastTerminationState.Terminated = exit(2, "Error")
		}, v1alpha1.PhaseRunning, "ContainerEnded", true, "ended with exit code 2, 4 times so far", "uid"},
		"it has used too much memory and is started again": {func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodRunning
			p.Status.ContainerStatuses[0].RestartCount = 1
			p.Status.ContainerStatuses[0].LastTerminationState.Terminated = exit(137, "OOMKilled")
		}, v1alpha1.PhaseRunning, "ContainerRestarted", false, "more memory than its limit of 1Gi", ""},
		"it has used too much memory for good": {func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodFailed
			p.Status.ContainerStatuses[0].State.Terminated = exit(137, "OOMKilled")
		}, v1alpha1.PhaseFailed, "OOMKilled", true, "more memory than its limit of 1Gi", ""},
		"it was killed": {func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodFailed
			p.Status.ContainerStatuses[0].State.Terminated = exit(143, "Error")
		}, v1alpha1.PhaseFailed, "ContainerEnded", true, "signal 15", ""},
		"it ended by itself": {func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, v1alpha1.PhaseSucceeded, "Completed", true, "by themselves", ""},
		"its node ran short": {func(p *corev1.Pod) {
			p.Status.Phase, p.Status.Reason = corev1.PodFailed, "Evicted"
			p.Status.Message = "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi, available: 3Mi. "
		}, v1alpha1.PhaseFailed, "Evicted", true, "short of ephemeral-storage", "Threshold"},
		"its node shut down": {func(p *corev1.Pod) {
			p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, "Terminated", "Pod was terminated in response to imminent node shutdown."
		}, v1alpha1.PhaseFailed, "Evicted", true, "shut down", ""},
		"its node was lost":       {disruption("DeletionByTaintManager"), v1alpha1.PhaseFailed, "NodeLost", true, "its node was lost", "node-7"},
		"it was evicted":          {disruption("EvictionByEvictionAPI"), v1alpha1.PhaseFailed, "Evicted", true, "evicted", "node-7"},
		"it was preempted":        {disruption("PreemptionByScheduler"), v1alpha1.PhaseFailed, "Preempted", true, "higher priority", "node-7"},
		"ended by who knows whom": {disruption("SomethingNew"), v1alpha1.PhaseFailed, "Evicted", true, "ended by the cluster", "node-7"},
		"its node does not answer": {func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodRunning
			p.Status.ContainerStatuses[0].Ready = true
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
		}, v1alpha1.PhaseRunning, "NodeLost", false, "its node does not answer", ""},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: "p", CreationTimestamp: metav1.NewTime(noon)},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "sandbox", Resources: corev1.ResourceRequirements{
					Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")},
				}}}},
				Status: corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{Name: "sandbox"}}},
			}
			if c.change != nil {
				c.change(pod)
			}
			v := judgement(pod, noon)
			require.False(t, v.Ready)
			require.Equal(t, c.phase, v.Phase)
			require.Equal(t, c.reason, v.Reason)
			require.Equal(t, c.failed, v.Failed)
			require.Contains(t, v.Message, c.says)
			if c.hides != "" {
				require.NotContains(t, v.Message, c.hides)
			}
		})
	}
}

func TestAMessageIsCutToWhatAListCanShow(t *testing.T) {
	require.Less(t, len(clean(strings.Repeat("ä ", 5000))), 700)
	require.Equal(t, "a b", clean("a\n\tb"))
}
