package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/sandgate-dev/sandgate/injector"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/controller/injection"
	"github.com/sandgate-dev/sandgate/warmpool/template"
)

// make makes the sandbox's pod. Its name is the sandbox's, so that none is made twice whatever happens to the answer.
func (p *pass) make(ctx context.Context) (*corev1.Pod, error) {
	pod, err := p.build()
	if err != nil {
		p.unbuildable(err)
		return nil, nil // the status tells of it
	}
	if err := p.introduce(ctx); err != nil {
		return nil, p.refused(err, "IdentityRefused", "the Secret of its agent was refused")
	}
	err = p.r.cfg.Client.Create(ctx, pod)
	if apierrors.IsAlreadyExists(err) { // made before, and the answer was lost or the cache is behind
		return p.look(ctx, p.r.cfg.Live)
	}
	if err != nil {
		return nil, p.refused(err, "PodRefused", "its pod was refused")
	}
	p.memory.recall(nil) // nothing is in it yet
	return pod, nil
}

// unbuildable tells in the status why there can be no pod now.
func (p *pass) unbuildable(err error) {
	switch {
	case errors.Is(err, injection.ErrUnknown):
		p.again(time.Second)
	case errors.Is(err, injection.ErrNone):
		p.refuse(verdict{Reason: "InjectionNotConfigured", Message: err.Error()})
	default:
		p.refuse(verdict{Reason: "InjectionImpossible", Message: "nothing can be injected into spec.template: " + err.Error()})
	}
}

// refused tells in the status of what the API server does not take. Other errors are the caller's.
func (p *pass) refused(err error, reason, what string) error {
	if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsRequestEntityTooLargeError(err) {
		p.refuse(verdict{Reason: reason, Message: clean(fmt.Sprintf("%s: %s", what, err))})
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// build is the sandbox's pod.
func (p *pass) build() (*corev1.Pod, error) {
	sb := p.sb
	own := sb.Spec.Template.DeepCopy()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: sb.Namespace, Name: sb.Name, Labels: own.Labels, Annotations: own.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(sb, v1alpha1.GroupVersion.WithKind("Sandbox"))},
		},
		Spec: own.Spec,
	}
	pod.Labels = maps.Clone(pod.Labels)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[v1alpha1.LabelSandboxID] = sb.Labels[v1alpha1.LabelSandboxID]
	delete(pod.Labels, v1alpha1.LabelPool)
	if pool := sb.Labels[v1alpha1.LabelPool]; pool != "" {
		pod.Labels[v1alpha1.LabelPool] = pool
	}
	delete(pod.Labels, v1alpha1.LabelClaimed)
	if sb.Spec.Claim != nil {
		mark(pod)
	}
	if pod.Spec.ServiceAccountName == "" && pod.Spec.AutomountServiceAccountToken == nil {
		pod.Spec.AutomountServiceAccountToken = ptr.To(false) // nobody asked for a way to the API server
	}
	names := runtimes(sb)
	if len(names) == 0 {
		return pod, nil
	}
	config, err := p.r.cfg.Injection.Config()
	if err != nil {
		return nil, err
	}
	return injector.Inject(pod, config, names, injector.Values{
		SandboxID: sb.Labels[v1alpha1.LabelSandboxID], AgentSecret: secretName(sb), InitKey: p.r.cfg.InitKey,
		Volumes: template.Mounted(sb.Spec.Volumes),
	})
}

func runtimes(sb *v1alpha1.Sandbox) (out []string) {
	for _, r := range sb.Spec.Runtimes {
		out = append(out, r.Name)
	}
	return out
}

func has(sb *v1alpha1.Sandbox, runtime string) bool { return slices.Contains(runtimes(sb), runtime) }

// owned says whether a pod is a sandbox's own.
func owned(pod *corev1.Pod, sb *v1alpha1.Sandbox) bool {
	ref := metav1.GetControllerOf(pod)
	return ref != nil && ref.UID == sb.UID
}
