package sandboxset

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/sandgate-dev/sandgate/injector"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/controller/injection"
	"github.com/sandgate-dev/sandgate/warmpool/template"
)

// revision is the digest of what new sandboxes of a set are made of. Its error is a fault, or injection.ErrUnknown.
func (r *Reconciler) revision(set *v1alpha1.SandboxSet) (string, error) {
	volumes, err := template.Volumes(set)
	if err == nil {
		err = template.Fit(volumes, r.cfg.MaxMounts)
	}
	if err != nil {
		return "", &fault{"InvalidVolumes", "spec." + err.Error()}
	}
	if _, err := template.Of(set); err != nil {
		return "", &fault{"InvalidTemplate", "spec.template: " + err.Error()}
	}
	names := Names(set.Spec.Runtimes)
	digest := ""
	if len(names) > 0 {
		config, err := r.cfg.Injection.Config()
		switch {
		case errors.Is(err, injection.ErrUnknown):
			return "", err
		case err != nil:
			return "", &fault{reasonInjection, err.Error()}
		}
		if digest, err = config.Digest(names); err != nil {
			return "", &fault{reasonInjection, fmt.Sprintf("ConfigMap %s/%s: %s", v1alpha1.SystemNamespace, v1alpha1.InjectionConfigMap, err)}
		}
		if err := rehearse(set, config, names); err != nil {
			return "", &fault{"InjectionImpossible", "spec.template cannot be injected into: " + err.Error()}
		}
	}
	parts := []any{set.Spec.Template, names, set.Spec.PersistentContents, digest}
	if len(set.Spec.Volumes) > 0 {
		parts = append(parts, set.Spec.Volumes)
	}
	text, err := json.Marshal(parts)
	if err != nil {
		return "", &fault{"InvalidTemplate", "spec.template: " + err.Error()}
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])[:16], nil
}

const reasonInjection = "InjectionNotConfigured"

// rehearse injects into the template as it will be done for every pod, so that what cannot work fails once and not per pod.
func rehearse(set *v1alpha1.SandboxSet, config injector.Config, names []string) error {
	pod := &corev1.Pod{ObjectMeta: *set.Spec.Template.ObjectMeta.DeepCopy(), Spec: *set.Spec.Template.Spec.DeepCopy()}
	_, err := injector.Inject(pod, config, names, injector.Values{
		SandboxID: string(sampleID), AgentSecret: nameOf(set.Name, sampleID) + "-agent", InitKey: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
		Volumes: template.Mounted(set.Spec.Volumes),
	})
	return err
}

const sampleID warmpool.ID = "i0000000000000000000"

// Names are the names of runtimes.
func Names(runtimes []v1alpha1.Runtime) (out []string) {
	for _, r := range runtimes {
		out = append(out, r.Name)
	}
	return out
}
