package webhook_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	"sigs.k8s.io/yaml"

	"github.com/sandgate-dev/sandgate/injector"
	"github.com/sandgate-dev/sandgate/injector/webhook"
)

type source struct {
	data map[string]string
	err  error
}

func (s source) Config() (injector.Config, error) {
	if s.err != nil {
		return injector.Config{}, s.err
	}
	return injector.Parse(s.data)
}

var good = source{data: map[string]string{
	"csi": `
sidecars: [{name: agent, image: a}]
volumes: [{name: identity, secret: {secretName: "${AGENT_SECRET}"}}]
mainContainer: {volumeMounts: [{name: identity, mountPath: /.sandgate/run}]}`,
	"agent-runtime": `mainContainer: {lifecycle: {postStart: {exec: {command: [envd, "${INIT_KEY}", "${SANDBOX_ID}"]}}}}`,
	"plain":         `labels: {fitted: "yes"}`,
}}

const builder = "system:serviceaccount:sandgate:sandgate-controller"

func handler(t *testing.T, s webhook.Source, log *bytes.Buffer) *webhook.Handler {
	t.Helper()
	h, err := webhook.New(webhook.Config{
		Source: s, Runtimes: "x/runtimes", SandboxID: "x/id", AgentSecret: "x/secret", InitKey: "KEY=", Builder: builder,
		Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	require.NoError(t, err)
	return h
}

func review(t *testing.T, pod string) admission.Request {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(pod))
	require.NoError(t, err)
	return admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
		Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}, Operation: admissionv1.Create, Namespace: "ns",
		UserInfo: authenticationv1.UserInfo{Username: "somebody"}, Object: runtime.RawExtension{Raw: raw},
	}}
}

// patched is the pod as the API server would keep it.
func patched(t *testing.T, req admission.Request, resp admission.Response) *corev1.Pod {
	t.Helper()
	require.True(t, resp.Allowed, resp.Result)
	ops, err := json.Marshal(resp.Patches)
	require.NoError(t, err)
	patch, err := jsonpatch.DecodePatch(ops)
	require.NoError(t, err)
	raw, err := patch.Apply(req.Object.Raw)
	require.NoError(t, err)
	pod := &corev1.Pod{}
	require.NoError(t, yaml.UnmarshalStrict(raw, pod))
	return pod
}

const spec = `spec: {containers: [{name: sandbox, image: i}]}`

func TestPodsAreFittedOutAsTheyAsk(t *testing.T) {
	for name, c := range map[string]struct {
		pod  string
		want string // part of the pod that is kept
	}{
		"a runtime without placeholders needs nothing else": {`metadata: {annotations: {x/runtimes: plain}}`, `"fitted":"yes"`},
		"spaces and empty names are no runtimes":            {`metadata: {annotations: {x/runtimes: " plain , "}}`, `"fitted":"yes"`},
		"the Secret is the one that the pod names":          {`metadata: {annotations: {x/runtimes: csi, x/secret: mine}}`, `"secretName":"mine"`},
		"the ID is the pod's and the key is ours": {
			`metadata: {labels: {x/id: i7}, annotations: {x/runtimes: agent-runtime}}`, `["envd","KEY=","i7"]`,
		},
		"several at once": {`metadata: {labels: {x/id: i7}, annotations: {x/runtimes: "plain,csi,agent-runtime", x/secret: s}}`, `"secretName":"s"`},
	} {
		t.Run(name, func(t *testing.T) {
			req := review(t, c.pod+"\n"+spec)
			resp := handler(t, good, &bytes.Buffer{}).Handle(t.Context(), req)
			raw, err := json.Marshal(patched(t, req, resp))
			require.NoError(t, err)
			require.Contains(t, string(raw), c.want)
			require.NotContains(t, string(raw), "${")
		})
	}
}

func TestPodsThatCannotBeFittedOutAreRefused(t *testing.T) {
	broken := errors.New("there is no injection configuration: csi.x: unknown key; csi.y: unknown key")
	for name, c := range map[string]struct {
		source source
		pod    string
		want   []string
	}{
		"no runtime named": {good, `metadata: {annotations: {x/runtimes: ","}}`, []string{"metadata.annotations[x/runtimes]: want comma-separated", "agent-runtime, csi, plain"}},
		"unknown runtimes, each": {
			good, `metadata: {annotations: {x/runtimes: "no,plain,nor"}}`, []string{`"no" is no key`, `"nor" is no key`, "it has agent-runtime, csi, plain"},
		},
		"what the runtimes need, all of it": {
			good, `metadata: {annotations: {x/runtimes: "csi,agent-runtime"}}`,
			[]string{"metadata.labels[x/id]: is required", "metadata.annotations[x/secret]: is required", "the Secret, in the pod's namespace"},
		},
		"a value that is none": {good, `metadata: {annotations: {x/runtimes: csi, x/secret: 'a"b'}}`, []string{"values may hold"}},
		"all the faults of a configuration": {
			source{err: broken}, `metadata: {annotations: {x/runtimes: csi}}`, []string{"csi.x: unknown key", "csi.y: unknown key"},
		},
		"a clash, with its path": {
			good, `metadata: {labels: {fitted: "no"}, annotations: {x/runtimes: plain}}`, []string{`metadata.labels[fitted]: is "no", and runtime plain injects "yes"`},
		},
		"a pod without walls": {
			good, "metadata: {annotations: {x/runtimes: plain}}\nspec: {hostPID: true, containers: [{name: s, securityContext: {privileged: true}}]}",
			[]string{"spec.hostPID", "spec.containers[0].securityContext.privileged"},
		},
		"fields that nobody here knows": {
			good, "metadata: {annotations: {x/runtimes: plain}}\nspec: {hostEverything: true, containers: [{name: s}]}", []string{"hostEverything"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			pod, log := c.pod, &bytes.Buffer{}
			if !strings.Contains(pod, "\nspec") {
				pod += "\n" + spec
			}
			resp := handler(t, c.source, log).Handle(t.Context(), review(t, pod))
			require.False(t, resp.Allowed)
			require.Empty(t, resp.Patches)
			for _, want := range c.want {
				require.Contains(t, resp.Result.Message, want)
			}
			require.Contains(t, log.String(), "pod refused")
		})
	}
}

func TestWhatDoesNotAskOrIsFittedOutIsLeftAlone(t *testing.T) {
	const asks = `metadata: {labels: {x/id: i7}, annotations: {x/runtimes: "plain,csi,agent-runtime", x/secret: s}}`
	config, err := good.Config()
	require.NoError(t, err)
	plain := &corev1.Pod{}
	require.NoError(t, yaml.UnmarshalStrict([]byte(asks+"\n"+spec), plain))
	fitted, err := injector.Inject(plain, config, []string{"csi", "agent-runtime", "plain"}, injector.Values{SandboxID: "i7", AgentSecret: "s", InitKey: "KEY="})
	require.NoError(t, err)
	raw, err := yaml.Marshal(fitted)
	require.NoError(t, err)

	for name, c := range map[string]struct {
		pod  string
		with func(*admission.Request)
	}{
		"a pod without the annotation, whatever it is": {"metadata: {}\nspec: {hostPID: true, hostEverything: true}", nil},
		"a pod that is fitted out":                     {string(raw), nil},
		"a pod of our own controller, in which the API server has filled in defaults": {
			strings.ReplaceAll(string(raw), "restartPolicy: Always", "restartPolicy: Always\n    imagePullPolicy: Always"),
			func(r *admission.Request) { r.UserInfo.Username = builder },
		},
		"an update":      {asks + "\n" + spec, func(r *admission.Request) { r.Operation = admissionv1.Update }},
		"a subresource":  {asks + "\n" + spec, func(r *admission.Request) { r.SubResource = "binding" }},
		"something else": {asks + "\n" + spec, func(r *admission.Request) { r.Kind.Kind = "Deployment" }},
	} {
		t.Run(name, func(t *testing.T) {
			req := review(t, c.pod)
			if c.with != nil {
				c.with(&req)
			}
			resp := handler(t, good, &bytes.Buffer{}).Handle(t.Context(), req)
			require.True(t, resp.Allowed, resp.Result)
			require.Empty(t, resp.Patches)
		})
	}
}

func TestAHandlerNeedsAll(t *testing.T) {
	_, err := webhook.New(webhook.Config{Source: good})
	require.ErrorContains(t, err, "are needed")
}
