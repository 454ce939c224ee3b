package sandbox

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/kube/keyring"
)

// secretType is that of agents' identities. A Secret's type cannot be changed: an update that states it fails on every Secret that is
// somebody else's, though we may not read it.
const secretType corev1.SecretType = "sandgate.dev/agent-identity"

// secretName is the name of the Secret with the identity of a sandbox's agent.
func secretName(sb *v1alpha1.Sandbox) string { return sb.Name + "-agent" }

// introduce makes the identity of the sandbox's agent, before there is a pod for it.
func (p *pass) introduce(ctx context.Context) error {
	at := p.renewal()
	if !slices.ContainsFunc(runtimes(p.sb), v1alpha1.MountsVolumes) || at != nil && p.now.Before(at.Time) {
		return nil
	}
	return p.identify(ctx)
}

// identify makes an identity of the sandbox's agent. One that is there already, be it of an earlier sandbox of the name, is replaced.
func (p *pass) identify(ctx context.Context) error {
	id, err := p.r.cfg.Authority.Agent(string(p.sb.UID), p.now)
	if err != nil {
		return err
	}
	end, err := id.NotAfter()
	if err != nil {
		return err
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.sb.Namespace, Name: secretName(p.sb),
			Labels:          map[string]string{v1alpha1.LabelSandboxID: p.sb.Labels[v1alpha1.LabelSandboxID]},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(p.sb, v1alpha1.GroupVersion.WithKind("Sandbox"))},
		},
		Type: secretType, Data: keyring.Fields(id),
	}
	err = p.r.cfg.Client.Create(ctx, secret)
	if apierrors.IsAlreadyExists(err) {
		err = p.r.cfg.Client.Update(ctx, secret)
	}
	if err != nil {
		return fmt.Errorf("secret %s: %w", secret.Name, err)
	}
	renewal := metav1.NewTime(p.now.Add(end.Sub(p.now) * 2 / 3).Truncate(time.Second))
	p.sb.Status.IdentityRenewal, p.memory.renewal = &renewal, &renewal
	return nil
}

// renewal is when the agent's identity is renewed next, nil when nobody knows. The status may not have it yet.
func (p *pass) renewal() *metav1.Time {
	if p.sb.Status.IdentityRenewal == nil {
		p.sb.Status.IdentityRenewal = p.memory.renewal
	}
	return p.sb.Status.IdentityRenewal
}

// renew makes a new identity of the agent in time. The kubelet brings it into the pod.
func (p *pass) renew(ctx context.Context) error {
	at := p.renewal()
	// A pod that this pass has found is younger than the status in the cache, which may lack what the pass before it has written.
	if at == nil && p.before.Status.PodInfo.PodUID != "" && slices.ContainsFunc(runtimes(p.sb), v1alpha1.MountsVolumes) {
		return p.identify(ctx) // nobody knows when it ends
	}
	if at == nil {
		return nil
	}
	if left := at.Sub(p.now); left > 0 {
		p.again(left)
		return nil
	}
	return p.identify(ctx)
}
