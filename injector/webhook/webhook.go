// Package webhook fits out pods that others make, at their admission: an annotation of the pod names the runtimes that it asks for. It
// knows neither a cluster nor where the injection configuration comes from.
package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/sandgate-dev/sandgate/injector"
)

// Source has the injection configuration in force, or says why there is none.
type Source interface {
	Config() (injector.Config, error)
}

// Config is what a Handler needs.
type Config struct {
	Source Source
	// Runtimes is the annotation with comma-separated runtimes; a pod without it is left alone.
	Runtimes string
	// SandboxID is the label with what ${SANDBOX_ID} is to be.
	SandboxID string
	// AgentSecret is the annotation with what ${AGENT_SECRET} is to be: a Secret beside the pod. Whoever makes a pod can mount every Secret
	// of its namespace without us, so naming one here gives no right, and the Secret is mounted into injected containers only.
	AgentSecret string
	// InitKey is what ${INIT_KEY} is to be: the installation's public key. It is the same for all pods.
	InitKey string
	// Builder is the user whose pods come fitted out. They are left alone: the API server has filled in defaults since, so that what was
	// injected no longer looks the same.
	Builder string
	Log     *slog.Logger
}

// Handler answers admission reviews of pods. It refuses what it cannot fit out: a pod that asks for injection is never let through without.
type Handler struct{ cfg Config }

var _ admission.Handler = (*Handler)(nil)

// New makes a Handler.
func New(cfg Config) (*Handler, error) {
	if cfg.Source == nil || cfg.Runtimes == "" || cfg.SandboxID == "" || cfg.AgentSecret == "" || cfg.InitKey == "" || cfg.Builder == "" || cfg.Log == nil {
		return nil, errors.New("webhook: Source, Runtimes, SandboxID, AgentSecret, InitKey, Builder and Log are needed")
	}
	return &Handler{cfg}, nil
}

// Handle implements admission.Handler.
func (h *Handler) Handle(_ context.Context, req admission.Request) admission.Response {
	if req.Kind.Group != "" || req.Kind.Kind != "Pod" || req.SubResource != "" || req.Operation != admissionv1.Create || req.UserInfo.Username == h.cfg.Builder {
		return admission.Allowed("")
	}
	pod := &corev1.Pod{}
	if err := json.Unmarshal(req.Object.Raw, pod); err != nil {
		return h.refuse(req, http.StatusBadRequest, err)
	}
	asked, ok := pod.Annotations[h.cfg.Runtimes]
	if !ok {
		return admission.Allowed("")
	}
	if err := understood(req.Object.Raw); err != nil {
		return h.refuse(req, http.StatusForbidden, err)
	}
	config, err := h.cfg.Source.Config()
	if err != nil {
		return h.refuse(req, http.StatusServiceUnavailable, err)
	}
	out, err := h.inject(pod, config, split(asked))
	if err != nil {
		return h.refuse(req, http.StatusForbidden, err)
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return h.refuse(req, http.StatusInternalServerError, err)
	}
	return admission.PatchResponseFromRaw(req.Object.Raw, raw)
}

// refuse denies the pod with all that is wrong. It is told in the log too: pods are often made by controllers, whose errors nobody sees.
func (h *Handler) refuse(req admission.Request, code int32, err error) admission.Response {
	h.cfg.Log.Info("pod refused", "namespace", req.Namespace, "user", req.UserInfo.Username, "code", code, "error", err)
	return admission.Errored(code, err)
}

// understood refuses fields that this version does not know: what they do to the walls of a sandbox cannot be said, and the patch would
// take them out.
func understood(raw []byte) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&corev1.Pod{}); err != nil {
		return fmt.Errorf("nothing is injected into a pod that this version does not understand: %w", err)
	}
	return nil
}

func split(list string) (out []string) {
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name != "" {
			out = append(out, name)
		}
	}
	return out
}

// inject fits the pod out, with the values that it states itself.
func (h *Handler) inject(pod *corev1.Pod, config injector.Config, runtimes []string) (*corev1.Pod, error) {
	at := fmt.Sprintf("metadata.annotations[%s]: ", h.cfg.Runtimes)
	if len(runtimes) == 0 {
		return nil, injector.Faults{at + "want comma-separated runtimes; there are " + strings.Join(config.Names(), ", ")}
	}
	needs, err := config.Needs(runtimes)
	if err != nil {
		return nil, fmt.Errorf("%s%w", at, err)
	}
	values := injector.Values{SandboxID: pod.Labels[h.cfg.SandboxID], AgentSecret: pod.Annotations[h.cfg.AgentSecret], InitKey: h.cfg.InitKey}
	if err := h.complete(needs, values); err != nil {
		return nil, err
	}
	return injector.Inject(pod, config, runtimes, values)
}

// complete refuses a pod that does not state what the runtimes need. Nothing is made up for it: an ID or a Secret that nobody keeps would
// only fail later.
func (h *Handler) complete(needs []string, v injector.Values) error {
	var faults injector.Faults
	for _, need := range needs {
		switch {
		case need == injector.PlaceholderSandboxID && v.SandboxID == "":
			faults = append(faults, fmt.Sprintf("metadata.labels[%s]: is required by these runtimes; set it to the sandbox's ID", h.cfg.SandboxID))
		case need == injector.PlaceholderAgentSecret && v.AgentSecret == "":
			faults = append(faults, fmt.Sprintf("metadata.annotations[%s]: is required by these runtimes; set it to the name of the Secret, in the pod's namespace, with the agent's certificate", h.cfg.AgentSecret))
		}
	}
	if len(faults) > 0 {
		return faults
	}
	return nil
}
