package injector_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/sandgate-dev/sandgate/injector"
)

const csi = `
csiSidecar:
- name: agent
  image: agent:1
  securityContext: {capabilities: {drop: [ALL], add: [SYS_ADMIN]}, seccompProfile: {type: Unconfined}}
  volumeMounts: [{name: handover, mountPath: /handover}]
initContainers:
- name: install
  image: agent:1
mainContainer:
  env: [{name: SANDBOX, value: "${SANDBOX_ID}"}]
  volumeMounts: [{name: handover, mountPath: /.sandgate/run, readOnly: true}]
  lifecycle: {postStart: {exec: {command: [starter, -detach]}}}
volume:
- {name: handover, emptyDir: {}}
- {name: identity, secret: {secretName: "${AGENT_SECRET}"}}
annotations: {a: b}
`

const agentRuntime = `{"mainContainer": {"lifecycle": {"postStart": {"exec": {"command": ["envd", "-key=${INIT_KEY}"]}}}}, "sidecars": [{"name": "other", "image": "x"}]}`

func config(t testing.TB) injector.Config {
	t.Helper()
	c, err := injector.Parse(map[string]string{"csi": csi, "agent-runtime": agentRuntime, "extra": `labels: {x: "v"}`})
	require.NoError(t, err)
	return c
}

func pod(t testing.TB, text string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{}
	require.NoError(t, yaml.UnmarshalStrict([]byte(text), p))
	return p
}

const plain = `{metadata: {name: p}, spec: {containers: [{name: sandbox, image: i}], initContainers: [{name: own, image: i}]}}`

var values = injector.Values{SandboxID: "i123", AgentSecret: "s-agent", InitKey: "a+/="}

func TestAPodIsFittedOut(t *testing.T) {
	in := pod(t, plain)
	before := in.DeepCopy()
	out, err := injector.Inject(in, config(t), []string{"csi", "extra", "agent-runtime"}, values)
	require.NoError(t, err)
	require.Equal(t, before, in, "the template is left alone")

	var names []string
	for _, c := range out.Spec.InitContainers {
		names = append(names, c.Name)
	}
	require.Equal(t, []string{"install", "other", "agent", "own"}, names, "what ends first, agent-runtime before csi, the template's own last")
	require.Equal(t, ptr.To(corev1.ContainerRestartPolicyAlways), out.Spec.InitContainers[2].RestartPolicy)
	main := out.Spec.Containers[0]
	require.Equal(t, []string{"starter", "-detach", "--", "envd", "-key=a+/="}, main.Lifecycle.PostStart.Exec.Command)
	require.Equal(t, []corev1.EnvVar{{Name: "SANDBOX", Value: "i123"}}, main.Env)
	require.Equal(t, "s-agent", out.Spec.Volumes[1].Secret.SecretName)
	require.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, out.Spec.SecurityContext.SeccompProfile.Type)
	require.Equal(t, map[string]string{"x": "v"}, out.Labels)

	again, err := injector.Inject(out, config(t), []string{"csi", "extra", "agent-runtime"}, values)
	require.NoError(t, err)
	require.Equal(t, out, again, "again changes nothing")
}

func TestWhatIsInjectedCanBePulled(t *testing.T) {
	c, err := injector.Parse(map[string]string{
		"csi": csi + "imagePullSecrets: [{name: ours}]\n", "agent-runtime": `{"imagePullSecrets": [{"name": "ours"}, {"name": "other"}]}`,
	})
	require.NoError(t, err)
	in := pod(t, plain)
	in.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "own"}, {Name: "other"}}
	out, err := injector.Inject(in, c, []string{"csi", "agent-runtime"}, values)
	require.NoError(t, err)
	require.Equal(t, []corev1.LocalObjectReference{{Name: "own"}, {Name: "other"}, {Name: "ours"}}, out.Spec.ImagePullSecrets)
}

func TestATemplatesOwnPostStartRunsBehindTheInjectedOne(t *testing.T) {
	in := pod(t, `{spec: {containers: [{name: sandbox, lifecycle: {postStart: {exec: {command: [sh, -c, "a -- b"]}}}}]}}`)
	out, err := injector.Inject(in, config(t), []string{"csi"}, values)
	require.NoError(t, err)
	require.Equal(t, []string{"starter", "-detach", "--", "sh", "-c", "a -- b"}, out.Spec.Containers[0].Lifecycle.PostStart.Exec.Command)
	again, err := injector.Inject(out, config(t), []string{"csi"}, values)
	require.NoError(t, err)
	require.Equal(t, out, again)
}

func TestWhatBreaksTheWallsOrClashesIsRefusedWithItsPath(t *testing.T) {
	for name, c := range map[string]struct{ pod, want string }{
		"no container":                     {`{spec: {}}`, "spec.containers"},
		"host network":                     {`{spec: {hostNetwork: true, containers: [{name: s}]}}`, "spec.hostNetwork"},
		"host processes":                   {`{spec: {hostPID: true, containers: [{name: s}]}}`, "spec.hostPID"},
		"shared processes":                 {`{spec: {shareProcessNamespace: true, containers: [{name: s}]}}`, "spec.shareProcessNamespace"},
		"privileged":                       {`{spec: {containers: [{name: s, securityContext: {privileged: true}}]}}`, "spec.containers[0].securityContext.privileged"},
		"a second container is looked at":  {`{spec: {containers: [{name: s}, {name: t, securityContext: {privileged: true}}]}}`, "spec.containers[1].securityContext.privileged"},
		"an init container is looked at":   {`{spec: {initContainers: [{name: t, securityContext: {privileged: true}}], containers: [{name: s}]}}`, "spec.initContainers[0].securityContext.privileged"},
		"a power":                          {`{spec: {containers: [{name: s, securityContext: {capabilities: {add: [cap_sys_ptrace]}}}]}}`, "capabilities.add"},
		"an unmasked proc":                 {`{spec: {containers: [{name: s, securityContext: {procMount: Unmasked}}]}}`, "procMount"},
		"no seccomp":                       {`{spec: {containers: [{name: s, securityContext: {seccompProfile: {type: Unconfined}}}]}}`, "seccompProfile"},
		"no seccomp of the pod":            {`{spec: {securityContext: {seccompProfile: {type: Unconfined}}, containers: [{name: s}]}}`, "spec.securityContext.seccompProfile"},
		"the agent's volume":               {`{spec: {containers: [{name: s, volumeMounts: [{name: identity, mountPath: /x}]}]}}`, "spec.containers[0].volumeMounts[0]"},
		"a writable hand-over":             {`{spec: {containers: [{name: s, volumeMounts: [{name: handover, mountPath: /.sandgate/run}]}]}}`, "spec.containers[0].volumeMounts[0]"},
		"a cover over our directory":       {`{spec: {containers: [{name: s, volumeMounts: [{name: v, mountPath: /.sandgate}]}]}}`, "must not cover"},
		"the node's sockets":               {`{spec: {volumes: [{name: v, hostPath: {path: /var/run/../run/containerd}}], containers: [{name: s}]}}`, "spec.volumes[0].hostPath.path"},
		"the node's root":                  {`{spec: {volumes: [{name: v, hostPath: {path: /}}], containers: [{name: s}]}}`, "spec.volumes[0].hostPath.path"},
		"propagation to the node":          {`{spec: {containers: [{name: s, volumeMounts: [{name: v, mountPath: /x, mountPropagation: Bidirectional}]}]}}`, "mountPropagation"},
		"another volume of the same name":  {`{spec: {volumes: [{name: handover, hostPath: {path: /srv}}], containers: [{name: s}]}}`, `"handover" is another one`},
		"another sidecar of the same name": {`{spec: {initContainers: [{name: agent}], containers: [{name: s}]}}`, `"agent" is the name of an injected container`},
		"a container of a sidecar's name":  {`{spec: {containers: [{name: agent}]}}`, `"agent" is the name of an injected container`},
		"another variable":                 {`{spec: {containers: [{name: s, env: [{name: SANDBOX, value: x}]}]}}`, `"SANDBOX" is another one`},
		"a hook that is no command":        {`{spec: {containers: [{name: s, lifecycle: {postStart: {sleep: {seconds: 1}}}}]}}`, "only an exec command can be chained"},
		"another annotation":               {`{metadata: {annotations: {a: c}}, spec: {containers: [{name: s}]}}`, "metadata.annotations[a]"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := injector.Inject(pod(t, c.pod), config(t), []string{"csi"}, values)
			require.ErrorContains(t, err, c.want)
			require.ErrorAs(t, err, &injector.Faults{})
		})
	}
}

func TestBesideAnAgentThatFencesNobodyGetsThroughTheFence(t *testing.T) {
	fencing, err := injector.Parse(map[string]string{"csi": strings.Replace(csi, "add: [SYS_ADMIN]", "add: [SYS_ADMIN, NET_ADMIN]", 1)})
	require.NoError(t, err)
	out, err := injector.Inject(pod(t, `{spec: {containers: [{name: s}, {name: d, securityContext: {capabilities: {drop: [ALL]}}}], initContainers: [{name: i}]}}`),
		fencing, []string{"csi"}, values)
	require.NoError(t, err)
	drops := map[string][]corev1.Capability{}
	for _, c := range slices.Concat(out.Spec.InitContainers, out.Spec.Containers) {
		if c.SecurityContext != nil {
			drops[c.Name] = c.SecurityContext.Capabilities.Drop
		}
	}
	require.Equal(t, map[string][]corev1.Capability{"agent": {"ALL"}, "i": {"NET_RAW"}, "s": {"NET_RAW"}, "d": {"ALL"}}, drops)
	again, err := injector.Inject(out, fencing, []string{"csi"}, values)
	require.NoError(t, err)
	require.Equal(t, out, again)
	for _, breach := range []string{"NET_ADMIN", "cap_net_raw"} {
		asks := pod(t, `{spec: {containers: [{name: s, securityContext: {capabilities: {add: [`+breach+`]}}}]}}`)
		_, err = injector.Inject(asks, fencing, []string{"csi"}, values)
		require.ErrorContains(t, err, "spec.containers[0].securityContext.capabilities.add")
		_, err = injector.Inject(asks, config(t), []string{"csi"}, values)
		require.NoError(t, err, "without a fence it is the template's matter")
	}
}

func TestAllFaultsAreToldAtOnce(t *testing.T) {
	_, err := injector.Inject(pod(t, `{spec: {hostPID: true, hostNetwork: true, containers: [{name: agent}]}}`), config(t), []string{"csi"}, values)
	require.ErrorContains(t, err, "hostPID")
	require.ErrorContains(t, err, "hostNetwork")
	require.ErrorContains(t, err, "agent")
	_, err = injector.Inject(pod(t, plain), config(t), []string{"x", "y"}, values)
	require.ErrorContains(t, err, `runtimes[0]: "x"`)
	require.ErrorContains(t, err, `runtimes[1]: "y"`)
}

func TestABrokenConfigurationIsToldWithItsPlaces(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no document":              {"{", "neither JSON nor YAML"},
		"a list":                   {"[]", "want a mapping"},
		"nothing":                  {"", "want a mapping"},
		"an unknown key":           {"sidecar: []", "csi.sidecar: unknown key"},
		"a key and its alias":      {"{volume: [], volumes: []}", "is another name of volume"},
		"an unknown field":         {"volumes: [{name: v, emptydir: {}, x: 1}]", "csi.volume"},
		"a volume without a name":  {"volumes: [{}]", "csi.volume[0].name"},
		"a nameless pull secret":   {"imagePullSecrets: [{}]", "csi.imagePullSecrets[0].name"},
		"a sidecar without image":  {"sidecars: [{name: s}]", "csi.csiSidecar[0].image"},
		"a name twice":             {"{sidecars: [{name: s, image: i}], containers: [{name: s, image: i}]}", "given twice"},
		"more of a main container": {"mainContainer: {image: x}", "only env, volumeMounts and lifecycle.postStart"},
		"a hook of another kind":   {"mainContainer: {lifecycle: {postStart: {sleep: {seconds: 1}}}}", "postStart.exec.command"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := injector.Parse(map[string]string{"csi": c.text})
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err := injector.Parse(map[string]string{"a": "[]", "b": "["})
	require.ErrorContains(t, err, "a:")
	require.ErrorContains(t, err, "b:")
}

func TestFaultsAreToldInOneOrder(t *testing.T) {
	const broken = `{labels: [], annotations: [], containers: {}, volumes: {}, initContainers: {}}`
	_, first := injector.Parse(map[string]string{"csi": broken})
	require.Error(t, first)
	for range 50 {
		_, again := injector.Parse(map[string]string{"csi": broken})
		require.EqualError(t, again, first.Error(), "a condition that bears it must not change by itself")
	}
}

func TestTheDigestChangesWithWhatIsInjectedOnly(t *testing.T) {
	c := config(t)
	one, err := c.Digest([]string{"csi", "agent-runtime"})
	require.NoError(t, err)
	require.Len(t, one, 16)
	two, err := c.Digest([]string{"agent-runtime", "csi"})
	require.NoError(t, err)
	require.Equal(t, one, two, "the order that is asked for is not that of the injection")
	other, err := injector.Parse(map[string]string{"csi": csi, "agent-runtime": agentRuntime, "extra": `labels: {x: "w"}`})
	require.NoError(t, err)
	three, err := other.Digest([]string{"agent-runtime", "csi"})
	require.NoError(t, err)
	require.Equal(t, one, three, "another runtime's change is none of these")
	four, err := c.Digest([]string{"csi"})
	require.NoError(t, err)
	require.NotEqual(t, one, four)
	_, err = c.Digest([]string{"nothing"})
	require.ErrorContains(t, err, `"nothing" is no key`)
}

func TestAValueCannotWriteManifests(t *testing.T) {
	_, err := injector.Inject(pod(t, plain), config(t), []string{"csi"}, injector.Values{SandboxID: `"}],"x":["`})
	require.ErrorContains(t, err, "letters, digits")
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{csi, agentRuntime, "", "[]", "a: &a [*a]", "{\"volume\": null}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := injector.Parse(map[string]string{"csi": text})
		if err != nil {
			return
		}
		first, err := injector.Inject(pod(t, plain), c, []string{"csi"}, values)
		if err != nil {
			return
		}
		second, err := injector.Inject(first, c, []string{"csi"}, values)
		require.NoError(t, err)
		require.Equal(t, first, second)
	})
}
