package sandbox

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// judge writes into the status how the pod is.
func (p *pass) judge(pod *corev1.Pod) {
	v := judgement(pod, p.now)
	s := &p.sb.Status
	s.PodInfo.PodUID = string(pod.UID)
	if v.Phase != v1alpha1.PhaseFailed && v.Phase != v1alpha1.PhaseSucceeded {
		s.PodInfo.PodIP, s.SandboxIP = pod.Status.PodIP, pod.Status.PodIP
	}
	if pod.Spec.NodeName != "" {
		s.PodInfo.NodeName = pod.Spec.NodeName
	}
	if v.Ready && p.sb.Spec.Claim == nil && len(p.sb.Spec.Mounts) == 0 { // until it is claimed, whatever runs is as it should be
		s.StartedContainer = mainContainer(pod)
	}
	if (v.Reason == v1alpha1.ReasonStarting || v.Reason == reasonStalled) && s.StartedContainer != "" { // it has been ready before
		v.Phase, v.Reason, v.Message = v1alpha1.PhaseRunning, "NotReady", waiting(pod)
	}
	if was := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReady); was != nil && v.Reason == pullFailed && was.Reason == pullPaused {
		v.Reason, v.Message, v.Failed = was.Reason, was.Message, true // the kubelet is trying again; that is no news
	}
	if v.Ready && p.sb.Spec.Claim == nil && p.stock() {
		v = p.furnished(v, mainContainer(pod))
	}
	p.say(v)
	if v.Reason == v1alpha1.ReasonStarting {
		p.again(max(patience-p.now.Sub(pod.CreationTimestamp.Time), time.Second))
	}
}

// over tells of the mounts of a sandbox that has ended: they have ended with it.
func (p *pass) over() {
	if !ended(p.sb) {
		return
	}
	s := &p.sb.Status
	for i, m := range s.Mounts {
		if m.Phase != failing || m.Message != endedMessage {
			s.Mounts[i].Phase, s.Mounts[i].Verdict, s.Mounts[i].Message = failing, gone(m, node.Health{}), endedMessage
		}
	}
	s.MountSummary = summary(s.Mounts, len(p.sb.Spec.Mounts))
}

const endedMessage = "the sandbox has ended"

// furnished is the verdict on stock whose pod is ready: it is stock once the volumes of its pool are mounted, so that every claim finds
// them.
func (p *pass) furnished(v verdict, container string) verdict {
	s, waiting := &p.sb.Status, verdict{Phase: v1alpha1.PhaseRunning, Reason: v1alpha1.ReasonStarting, Message: "its volumes are being mounted"}
	for _, asked := range p.sb.Spec.Mounts {
		switch m := find(s.Mounts, asked.ID); {
		case m != nil && m.Phase == failing:
			return verdict{Phase: v1alpha1.PhaseRunning, Reason: "VolumeNotMounted", Message: "volume " + m.Source + " at " + m.Path + ": " + m.Message}
		case m == nil, m.Phase != mounted, s.StartedContainer != container:
			v = waiting
		}
	}
	return v
}

// mainContainer is the runtime's ID of the container that is the sandbox, empty when it does not run.
func mainContainer(pod *corev1.Pod) string {
	if len(pod.Spec.Containers) == 0 {
		return ""
	}
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name == pod.Spec.Containers[0].Name && s.State.Running != nil {
			return s.ContainerID
		}
	}
	return ""
}

// fail says that the sandbox has failed.
func (p *pass) fail(v verdict) { p.say(v) }

// refuse says that the pod cannot be made now. It is tried again, the less often the longer it has not worked.
func (p *pass) refuse(v verdict) {
	v.Phase, v.Failed = v1alpha1.PhasePending, true
	p.say(v)
	c := meta.FindStatusCondition(p.sb.Status.Conditions, v1alpha1.ConditionReady)
	p.again(min(max(p.now.Sub(c.LastTransitionTime.Time)/2, time.Second), 2*time.Minute))
}

// say writes a verdict into the status. What goes wrong newly is an event, too.
func (p *pass) say(v verdict) {
	s := &p.sb.Status
	s.Phase, s.Message = v.Phase, v.Message
	if v.Ready {
		s.Message = ""
	}
	s.State = string(p.state(v))
	was := meta.FindStatusCondition(p.before.Status.Conditions, v1alpha1.ConditionReady)
	if !v.Ready && v.Reason != v1alpha1.ReasonStarting && (was == nil || was.Reason != v.Reason || was.Status == metav1.ConditionTrue) {
		p.warn(v.Reason, "Run", v.Message)
	}
	c := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v.Reason, Message: v.Message,
		ObservedGeneration: p.sb.Generation, LastTransitionTime: metav1.NewTime(p.now),
	}
	if v.Ready {
		c.Status = metav1.ConditionTrue
	}
	meta.SetStatusCondition(&s.Conditions, c)
}

// state is the sandbox's as the API has it.
func (p *pass) state(v verdict) warmpool.State {
	switch {
	case p.sb.DeletionTimestamp != nil:
		return warmpool.Terminating
	case v.Failed:
		return warmpool.Failed
	case p.sb.Spec.Claim == nil && p.stock() && v.Ready:
		return warmpool.Available
	case v.Ready, p.before.Status.State == string(warmpool.Running):
		return warmpool.Running
	}
	return warmpool.Creating
}

// stock says whether the sandbox is a set's.
func (p *pass) stock() bool {
	return slices.ContainsFunc(p.sb.OwnerReferences, isSet)
}

func isSet(ref metav1.OwnerReference) bool {
	return ref.Kind == "SandboxSet" && ref.APIVersion == v1alpha1.GroupVersion.String()
}

func isReady(sb *v1alpha1.Sandbox) bool {
	return meta.IsStatusConditionTrue(sb.Status.Conditions, v1alpha1.ConditionReady)
}

// same says that b tells nothing worth a write beyond a. A node's name alone can wait until there is more to tell.
func same(a, b *v1alpha1.SandboxStatus) bool {
	x := a.DeepCopy()
	if b.Phase == v1alpha1.PhasePending && x.PodInfo.NodeName == "" {
		x.PodInfo.NodeName = b.PodInfo.NodeName
	}
	return equality.Semantic.DeepEqual(x, b)
}

// summary is "mounted/asked".
func summary(mounts []v1alpha1.MountStatus, asked int) string {
	if asked == 0 && len(mounts) == 0 {
		return ""
	}
	n := 0
	for _, m := range mounts {
		if m.Phase == string(warmpool.MountReady) {
			n++
		}
	}
	return fmt.Sprintf("%d/%d", n, asked)
}

func find(mounts []v1alpha1.MountStatus, id string) *v1alpha1.MountStatus {
	if i := slices.IndexFunc(mounts, func(m v1alpha1.MountStatus) bool { return m.ID == id }); i >= 0 {
		return &mounts[i]
	}
	return nil
}
