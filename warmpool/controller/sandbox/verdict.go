package sandbox

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// verdict is what is to be said of a sandbox by its pod.
type verdict struct {
	Phase   v1alpha1.SandboxPhase
	Ready   bool
	Failed  bool // the sandbox is of no use as it is, now or for good
	Reason  string
	Message string // for its owner to read
}

// patience is how long a pod may be in the making before its owner is told that it takes long.
const patience = time.Minute

// judgement reads a pod.
func judgement(pod *corev1.Pod, now time.Time) verdict {
	switch {
	case pod.DeletionTimestamp != nil:
		return bereaved(disrupted(pod))
	case pod.Status.Phase == corev1.PodSucceeded:
		return verdict{Phase: v1alpha1.PhaseSucceeded, Failed: true, Reason: "Completed", Message: "its containers have ended by themselves"}
	case pod.Status.Phase == corev1.PodFailed:
		reason, message := failure(pod)
		return verdict{Phase: v1alpha1.PhaseFailed, Failed: true, Reason: reason, Message: message}
	case ready(pod):
		return verdict{Phase: v1alpha1.PhaseRunning, Ready: true, Reason: v1alpha1.ConditionReady}
	}
	v := obstacle(pod)
	if v.Reason == "" && lost(pod) {
		v.Reason, v.Message = v1alpha1.ReasonNodeLost, "its node does not answer; the sandbox goes on if the node comes back"
	}
	v.Phase = v1alpha1.PhasePending
	if v.Reason != "" && pod.Status.Phase == corev1.PodRunning {
		v.Phase = v1alpha1.PhaseRunning
	}
	if v.Reason == "" {
		v.Reason = v1alpha1.ReasonStarting
	}
	if v.Reason == v1alpha1.ReasonStarting && now.Sub(pod.CreationTimestamp.Time) > patience {
		v.Reason, v.Message = reasonStalled, waiting(pod)
	}
	return v
}

// reasonStalled is that of a sandbox that has been in the making for too long to be merely starting.
const reasonStalled = "Stalled"

// waiting is what a pod that takes long is waiting for.
func waiting(pod *corev1.Pod) string {
	if name := unready(pod); pod.Status.Phase == corev1.PodRunning && name != "" {
		return fmt.Sprintf("container %s is not ready", name)
	}
	return "its pod has been in the making for more than a minute; the pod's events tell why"
}

func ready(pod *corev1.Pod) bool {
	c := condition(pod, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue && pod.Status.PodIP != "" && pod.DeletionTimestamp == nil
}

func condition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == kind {
			return c
		}
	}
	return nil
}

// disruptions are the reasons of Kubernetes for ending pods, in words.
var disruptions = map[string]struct{ reason, message string }{
	corev1.PodReasonPreemptionByScheduler: {"Preempted", "it had to make room for a pod of higher priority"},
	"DeletionByTaintManager":              {"NodeLost", "its node was lost or is not for it any more"},
	"EvictionByEvictionAPI":               {"Evicted", "it was evicted, as happens when a node is drained"},
	"DeletionByPodGC":                     {"NodeLost", "its node is gone"},
	corev1.PodReasonTerminationByKubelet:  {"Evicted", "its node ran short of something or was shut down"},
	corev1.PodReasonSchedulingGated:       {"Unschedulable", "its pod is gated"},
	"NodeAffinity":                        {"Evicted", "its node is not for it any more"},
	"DeviceUnavailable":                   {"DeviceUnavailable", "a device that it needs is not on its node any more"},
	"DeletionByDeviceTaintManager":        {"DeviceUnavailable", "a device that it needs was taken away"},
	"UnexpectedAdmissionError":            {"NotAdmitted", "its node did not admit it"},
	"OutOfcpu":                            {"NotAdmitted", "its node had no CPU left for it"},
	"OutOfmemory":                         {"NotAdmitted", "its node had no memory left for it"},
	"OutOfpods":                           {"NotAdmitted", "its node takes no more pods"},
	"OutOfephemeral-storage":              {"NotAdmitted", "its node had no disk space left for it"},
	"Terminated":                          {"Evicted", "its node was shut down"},
	"Shutdown":                            {"Evicted", "its node was shut down"},
	"NodeShutdown":                        {"Evicted", "its node was shut down"},
	"NodeLost":                            {"NodeLost", "its node was lost"},
}

// bereaved is the verdict on a sandbox whose pod somebody else has ended.
func bereaved(reason, message string) verdict {
	return verdict{
		Phase: v1alpha1.PhaseFailed, Failed: true, Reason: cmp.Or(reason, "PodDeleted"),
		Message: cmp.Or(message, "its pod was deleted by somebody else; what was in it outside volumes is gone"),
	}
}

func disrupted(pod *corev1.Pod) (reason, message string) {
	if c := condition(pod, corev1.DisruptionTarget); c != nil && c.Status == corev1.ConditionTrue {
		if d, ok := disruptions[c.Reason]; ok {
			return d.reason, d.message + "; what was in it outside volumes is gone"
		}
		return "Evicted", "it was ended by the cluster; what was in it outside volumes is gone"
	}
	return "", ""
}

var scarce = regexp.MustCompile(`low on resource: ([a-z-]+)`)

// failure is why a pod has failed.
func failure(pod *corev1.Pod) (reason, message string) {
	if pod.Status.Reason == "Evicted" {
		what := "something"
		if m := scarce.FindStringSubmatch(pod.Status.Message); m != nil {
			what = m[1]
		}
		return "Evicted", "it was evicted, for its node ran short of " + what
	}
	if pod.Status.Reason == "DeadlineExceeded" {
		return "DeadlineExceeded", "spec.template.spec.activeDeadlineSeconds is over"
	}
	if d, ok := disruptions[pod.Status.Reason]; ok {
		return d.reason, d.message
	}
	if reason, message := disrupted(pod); reason != "" {
		return reason, message
	}
	for _, s := range statuses(pod) {
		if t := s.State.Terminated; t != nil && (t.ExitCode != 0 || t.Signal != 0) {
			return died(pod, s.Name, t)
		}
	}
	return "PodFailed", clean(cmp.Or(pod.Status.Message, "its pod has failed"))
}

// oomKilled is Kubernetes' reason for the end of a container that had no memory left, and ours.
const oomKilled = "OOMKilled"

// died is why a container ended.
func died(pod *corev1.Pod, name string, t *corev1.ContainerStateTerminated) (reason, message string) {
	if t.Reason == oomKilled {
		limit := ""
		for _, c := range append(append([]corev1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...) {
			if q := c.Resources.Limits.Memory(); c.Name == name && !q.IsZero() {
				limit = " of " + q.String()
			}
		}
		return oomKilled, fmt.Sprintf("container %s used more memory than its limit%s and was killed", name, limit)
	}
	how := fmt.Sprintf("exit code %d", t.ExitCode)
	if t.Signal != 0 {
		how = fmt.Sprintf("signal %d", t.Signal)
	} else if t.ExitCode > 128 {
		how = fmt.Sprintf("exit code %d, that is signal %d", t.ExitCode, t.ExitCode-128)
	}
	detail := ""
	if t.Reason != "" && t.Reason != "Error" && t.Reason != "Completed" {
		detail = ": " + clean(cmp.Or(t.Message, t.Reason))
	}
	return "ContainerEnded", fmt.Sprintf("container %s ended with %s%s", name, how, detail)
}

// The reasons of a container whose image cannot be pulled: at a try, and between two.
const (
	pullFailed = "ErrImagePull"
	pullPaused = "ImagePullBackOff"
)

// killed tells of the sidecar that ended last if that was for its memory, else "".
func killed(pod *corev1.Pod) string {
	var name string
	var last *corev1.ContainerStateTerminated
	for _, s := range pod.Status.InitContainerStatuses {
		for _, t := range []*corev1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
			if t != nil && (last == nil || last.FinishedAt.Before(&t.FinishedAt)) {
				name, last = s.Name, t
			}
		}
	}
	if last == nil || last.Reason != oomKilled {
		return ""
	}
	_, message := died(pod, name, last)
	return message
}

// waits are the reasons of a waiting container that do not go away by waiting a little, with whether the sandbox is of no use meanwhile.
var waits = map[string]bool{
	pullFailed: false, pullPaused: true, "InvalidImageName": true, "ErrImageNeverPull": true, "ImageInspectError": true,
	"RegistryUnavailable": true, "SignatureValidationFailed": true,
	"CreateContainerConfigError": true, "CreateContainerError": true, "RunContainerError": true, "PreStartHookError": true,
	"PostStartHookError": true, "CrashLoopBackOff": true,
}

// obstacle is what keeps a pod from getting ready that its owner may do something about.
func obstacle(pod *corev1.Pod) verdict {
	if c := condition(pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionFalse && pod.Spec.NodeName == "" {
		return verdict{Reason: cmp.Or(c.Reason, v1alpha1.ReasonUnschedulable), Message: clean("no node takes its pod: " + c.Message)}
	}
	for _, s := range statuses(pod) {
		w := s.State.Waiting
		if w == nil {
			continue
		}
		if last := s.LastTerminationState.Terminated; w.Reason == "CrashLoopBackOff" && last != nil {
			reason, message := died(pod, s.Name, last)
			return verdict{Failed: true, Reason: reason, Message: fmt.Sprintf("%s, %d times so far; it is started again after a pause", message, s.RestartCount)}
		}
		if failed, ok := waits[w.Reason]; ok {
			return verdict{Failed: failed, Reason: w.Reason, Message: clean(fmt.Sprintf("container %s cannot be started: %s", s.Name, cmp.Or(w.Message, w.Reason)))}
		}
	}
	for _, s := range statuses(pod) {
		if t := s.LastTerminationState.Terminated; t != nil && !s.Ready && s.RestartCount > 0 {
			_, message := died(pod, s.Name, t)
			return verdict{Reason: "ContainerRestarted", Message: message + " and was started again"}
		}
	}
	return verdict{}
}

// statuses are those of all containers, the injected ones first, as they are started.
func statuses(pod *corev1.Pod) []corev1.ContainerStatus {
	return append(append([]corev1.ContainerStatus{}, pod.Status.InitContainerStatuses...), pod.Status.ContainerStatuses...)
}

// lost says that a node does not answer: the pod is not ready though, as far as its node has told, all of its containers are.
func lost(pod *corev1.Pod) bool {
	c := condition(pod, corev1.PodReady)
	return pod.Status.Phase == corev1.PodRunning && c != nil && c.Status != corev1.ConditionTrue && len(pod.Spec.ReadinessGates) == 0 &&
		len(pod.Status.ContainerStatuses) > 0 && unready(pod) == ""
}

// unready is the first container that is not ready, be it one that runs all the time or one that must end first.
func unready(pod *corev1.Pod) string {
	for _, s := range statuses(pod) {
		if done := s.State.Terminated != nil && s.State.Terminated.ExitCode == 0; !s.Ready && !done {
			return s.Name
		}
	}
	return ""
}

var (
	query    = regexp.MustCompile(`\?[^\s"']+`)
	userinfo = regexp.MustCompile(`://[^/\s"'@]+@`)
)

// clean takes out of a message of Kubernetes what may be a secret: what URLs carry beside their address. It is cut to what a list can show.
func clean(text string) string {
	text = userinfo.ReplaceAllString(query.ReplaceAllString(text, "?..."), "://...@")
	text = strings.Join(strings.Fields(text), " ")
	const most = 600
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + " ..."
	}
	return text
}
