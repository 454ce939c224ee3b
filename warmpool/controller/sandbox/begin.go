package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/template"
)

// deadline deletes a sandbox whose time is over, unless that has been moved in the same moment.
func (p *pass) deadline(ctx context.Context) (over bool, err error) {
	end := p.sb.Spec.ShutdownTime
	if end == nil {
		return false, nil
	}
	if left := end.Sub(p.now); left > 0 {
		p.again(left)
		return false, nil
	}
	err = p.r.cfg.Client.Delete(ctx, p.sb, client.Preconditions{UID: &p.before.UID, ResourceVersion: &p.before.ResourceVersion})
	if client.IgnoreNotFound(err) != nil {
		return true, fmt.Errorf("delete sandbox %s at its deadline: %w", p.sb.Name, err)
	}
	if err == nil {
		p.event(corev1.EventTypeNormal, "DeadlineReached", "Delete", "its deadline "+end.UTC().Format(time.RFC3339)+" is reached")
	}
	return true, nil
}

// name gives a Sandbox that somebody has made or claimed by hand what the others have.
func (p *pass) name(ctx context.Context) (changed bool, err error) {
	about := map[string]any{}
	labels := map[string]string{}
	if _, ok := warmpool.ParseID(p.sb.Labels[v1alpha1.LabelSandboxID]); !ok {
		labels[v1alpha1.LabelSandboxID] = string(warmpool.NewID())
	}
	if p.sb.Spec.Claim != nil && p.sb.Labels[v1alpha1.LabelClaimed] != "true" {
		labels[v1alpha1.LabelClaimed] = "true"
	}
	if len(labels) > 0 {
		about["labels"] = labels
	}
	if p.sb.Spec.Claim != nil && p.stock() { // its set's end must not be its own
		about["ownerReferences"] = slices.DeleteFunc(slices.Clone(p.sb.OwnerReferences), isSet)
	}
	if !slices.Contains(p.sb.Finalizers, v1alpha1.FinalizerMounts) {
		about["finalizers"] = append(slices.Clone(p.sb.Finalizers), v1alpha1.FinalizerMounts)
	}
	if len(about) == 0 {
		return false, nil
	}
	about["resourceVersion"], about["uid"] = p.sb.ResourceVersion, p.sb.UID
	body, err := json.Marshal(map[string]any{"metadata": about})
	if err != nil {
		return false, err
	}
	p.again(time.Second)
	return true, p.r.cfg.Client.Patch(ctx, p.sb, client.RawPatch(types.MergePatchType, body))
}

// unsupported is what a spec asks for and does not get.
func unsupported(sb *v1alpha1.Sandbox) *verdict {
	var message string
	switch {
	case sb.Spec.TemplateRef != nil:
		message = "spec.templateRef is not supported; give the pod in spec.template"
	case len(sb.Spec.VolumeClaimTemplates) > 0:
		message = "spec.volumeClaimTemplates is not supported; mount PersistentVolumes with spec.mounts"
	case sb.Spec.Template == nil || len(sb.Spec.Template.Spec.Containers) == 0:
		message = "spec.template has no container; its first one is the sandbox"
	default:
		_, err := template.OfSandbox(sb)
		if err == nil || len(sb.Spec.Volumes) == 0 {
			return nil
		}
		message = "spec." + err.Error()
	}
	return &verdict{Phase: v1alpha1.PhaseFailed, Failed: true, Reason: "Unsupported", Message: message}
}

// pod finds the sandbox's pod, or makes it. nil: there is none, and the status says why.
func (p *pass) pod(ctx context.Context) (*corev1.Pod, error) {
	pod, err := p.look(ctx, p.r.cfg.Client)
	if !apierrors.IsNotFound(err) {
		return pod, err
	}
	if p.sb.Status.PodInfo.PodUID == "" {
		return p.make(ctx)
	}
	// The cache may be behind: a sandbox is given up only on the API server's own word.
	pod, err = p.look(ctx, p.r.cfg.Live)
	if apierrors.IsNotFound(err) {
		p.fail(p.memory.lastWords(p.sb.Status.PodInfo.PodUID))
		return nil, nil
	}
	return pod, err
}

// look reads the sandbox's pod. A pod of its name that is not its own is nothing to go on with.
func (p *pass) look(ctx context.Context, from client.Reader) (*corev1.Pod, error) {
	var pod corev1.Pod
	if err := from.Get(ctx, client.ObjectKeyFromObject(p.sb), &pod); err != nil {
		return nil, err
	}
	if !owned(&pod, p.sb) {
		p.refuse(verdict{Reason: "PodNameTaken", Message: fmt.Sprintf("there is a pod named %s that is not this sandbox's; delete it, or name the Sandbox otherwise", pod.Name)})
		return nil, nil
	}
	return &pod, nil
}
