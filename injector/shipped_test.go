package injector_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/sandgate-dev/sandgate/injector"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest/chart"
)

// shipped is the injection configuration that the chart makes of these values.
func shipped(t *testing.T, set ...string) injector.Config {
	t.Helper()
	cm := &corev1.ConfigMap{}
	require.NoError(t, yaml.UnmarshalStrict(chart.Render(t, "injection.yaml", set...), cm))
	c, err := injector.Parse(cm.Data)
	require.NoError(t, err)
	return c
}

// What the chart ships is what every sandbox gets, so that no value may make it something that cannot be injected.
func TestWhatTheChartShipsCanBeInjected(t *testing.T) {
	for name, set := range map[string][]string{
		"the defaults":                    nil,
		"without FUSE":                    {"--set", "agent.fuse=false"},
		"with directories of the node":    {"--set", "agent.allowHostPaths={/srv/a,/srv/b}"},
		"with a fence around NFS":         {"--set", "agent.nas.fence=true"},
		"with roles of buckets":           {"--set", "agent.oss.sts=https://sts.example.com"},
		"with networks barred":            {"--set", "policy.barredEndpoints={10.0.0.0/8,192.0.2.1}"},
		"from a private registry":         {"--set", "image.pullSecrets={registry}"},
		"by digest, with a runtime added": {"--set", "image.digests.envd=sha256:" + digest, "--set-string", "injection.extra.mine=labels: {a: b}"},
	} {
		t.Run(name, func(t *testing.T) {
			c := shipped(t, set...)
			require.Subset(t, c.Names(), []string{"agent-runtime", "csi"})

			fitted, err := injector.Inject(pod(t, plain), c, c.Names(), values)
			require.NoError(t, err)
			again, err := injector.Inject(fitted, c, c.Names(), values)
			require.NoError(t, err)
			require.Equal(t, fitted, again)
			raw, err := yaml.Marshal(fitted)
			require.NoError(t, err)
			require.NotContains(t, string(raw), "${")

			needs, err := c.Needs([]string{"agent-runtime"})
			require.NoError(t, err)
			require.Equal(t, []string{injector.PlaceholderSandboxID, injector.PlaceholderInitKey}, needs)
			needs, err = c.Needs([]string{"csi"})
			require.NoError(t, err)
			require.Equal(t, []string{injector.PlaceholderAgentSecret}, needs)
		})
	}
}

// cluster answers what helm asks an API server while it renders: there is nothing but the one EndpointSlice.
func cluster(t *testing.T, addresses ...string) string {
	t.Helper()
	const slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"
	kinds := map[string]metav1.APIResource{
		"v1": {Name: "namespaces", Kind: "Namespace"}, "discovery.k8s.io/v1": {Name: "endpointslices", Kind: "EndpointSlice", Namespaced: true},
		"apiextensions.k8s.io/v1": {Name: "customresourcedefinitions", Kind: "CustomResourceDefinition"}, "agents.kruise.io/v1alpha1": {Name: "sandboxsets", Kind: "SandboxSet", Namespaced: true},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, code := any(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Reason: metav1.StatusReasonNotFound, Code: 404}), 404
		version := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/apis/"), "/api/")
		if kind, ok := kinds[version]; ok {
			kind.Verbs = metav1.Verbs{"get", "list"}
			answer, code = metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: version, APIResources: []metav1.APIResource{kind}}, 200
		}
		if r.URL.Path == slices {
			slice := discoveryv1.EndpointSlice{TypeMeta: metav1.TypeMeta{Kind: "EndpointSlice", APIVersion: "discovery.k8s.io/v1"}, ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: "default"}}
			for _, a := range addresses {
				slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
			}
			answer, code = slice, 200
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// Whatever looks at volumes' servers is told where the API servers are.
func TestTheAPIServersThemselvesAreBarred(t *testing.T) {
	flags := regexp.MustCompile(`-bar-endpoints=\S*`)
	asking := []string{"--dry-run=server", "--kube-apiserver", cluster(t, "192.0.2.10", "192.0.2.11")}
	for name, c := range map[string]struct {
		set  []string
		want string // empty for no flag
	}{
		"as the cluster has them":   {asking, "-bar-endpoints=192.0.2.10,192.0.2.11"},
		"beside what is barred":     {append([]string{"--set", "policy.barredEndpoints={10.0.0.0/8,192.0.2.11}"}, asking...), "-bar-endpoints=10.0.0.0/8,192.0.2.11,192.0.2.10"},
		"not where storage is":      {append([]string{"--set", "policy.barAPIServers=false"}, asking...), ""},
		"not without a cluster":     {nil, ""},
		"by nobody at all":          {[]string{"--set", "policy.barredEndpoints=null"}, ""},
		"by hand without a cluster": {[]string{"--set", "policy.barredEndpoints={192.0.2.10}"}, "-bar-endpoints=192.0.2.10"},
	} {
		t.Run(name, func(t *testing.T) {
			for template, times := range map[string]int{"gateway": 1, "controller": 1, "injection": 2} { // the agent, and the container of its clients
				got := flags.FindAllString(string(chart.Render(t, template+".yaml", c.set...)), -1)
				if c.want == "" {
					require.Empty(t, got, template)
					continue
				}
				require.Equal(t, slices.Repeat([]string{c.want}, times), got, template)
			}
		})
	}
}

// An agent on a CSI driver's image takes the place of the usual one, and is there once.
func TestAnAgentOnADriversImageCanBeInjected(t *testing.T) {
	c := shipped(t, "-f", "../examples/kubernetes/csi-driver-values.yaml")
	fitted, err := injector.Inject(pod(t, plain), c, []string{"agent-runtime", "csi-smb"}, values)
	require.NoError(t, err)
	again, err := injector.Inject(fitted, c, []string{"agent-runtime", "csi-smb"}, values)
	require.NoError(t, err)
	require.Equal(t, fitted, again)
	agents := 0
	for _, s := range fitted.Spec.InitContainers {
		if s.Name == "sandgate-csiagent" {
			agents++
			require.Equal(t, "registry.k8s.io/sig-storage/smbplugin:v1.20.1", s.Image)
			require.Equal(t, []string{"/sandgate/csiagent", "serve"}, s.Command)
			require.Equal(t, []string{
				"-containers=sandbox", "-clients=/clients/clients.sock", "-plugin=smb.csi.k8s.io",
				"-plugin-context=csi.storage.k8s.io/pod.name=$(POD_NAME)", "-plugin-context=csi.storage.k8s.io/pod.namespace=$(POD_NAMESPACE)",
				"-plugin-context=csi.storage.k8s.io/pod.uid=$(POD_UID)", "-plugin-context=csi.storage.k8s.io/serviceAccount.name=$(POD_SERVICE_ACCOUNT)",
				"-plugin-context=csi.storage.k8s.io/ephemeral=false",
				"--", "/smbplugin", "--endpoint=$(CSI_ENDPOINT)", "--nodeid=$(NODE_NAME)",
			}, s.Args)
			for _, arg := range s.Args {
				for _, name := range regexp.MustCompile(`\$\(([A-Z_]+)\)`).FindAllStringSubmatch(arg, -1) {
					said := slices.ContainsFunc(s.Env, func(e corev1.EnvVar) bool { return e.Name == name[1] })
					require.True(t, said || name[1] == "CSI_ENDPOINT", "nobody says what %s is", name[0]) // the agent says that one
				}
			}
		}
	}
	require.Equal(t, 1, agents)
	_, err = injector.Inject(pod(t, plain), c, []string{"csi", "csi-smb"}, values)
	require.ErrorContains(t, err, "sandgate-csiagent", "a pod has one agent")
}

// Who lets volumes through must know of each driver in which sandboxes it is.
func TestADriverIsToldByTheRuntimeThatBringsIt(t *testing.T) {
	values := []string{"-f", "../examples/kubernetes/csi-driver-values.yaml"}
	require.Contains(t, shipped(t, values...).Names(), "csi-smb")
	for _, component := range []string{"gateway", "controller"} {
		require.Contains(t, string(chart.Render(t, component+".yaml", values...)), "- -drivers=csi-smb=smb.csi.k8s.io\n", component)
	}
}

func TestAPluginIsToldOfThePodUnlessItsValuesSayNo(t *testing.T) {
	args := func(more ...string) string {
		c := shipped(t, append([]string{"-f", "../examples/kubernetes/csi-driver-values.yaml"}, more...)...)
		fitted, err := injector.Inject(pod(t, plain), c, []string{"agent-runtime", "csi-smb"}, values)
		require.NoError(t, err)
		at := slices.IndexFunc(fitted.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == "sandgate-csiagent" })
		require.GreaterOrEqual(t, at, 0)
		return strings.Join(fitted.Spec.InitContainers[at].Args, " ")
	}
	require.Contains(t, args(), "csi.storage.k8s.io/pod.uid=$(POD_UID)")
	require.NotContains(t, args("--set", "agent.plugins[0].podInfo=false"), "csi.storage.k8s.io/")
	require.Regexp(t, `ephemeral=false -plugin-context=mine=x --`, args("--set", "agent.plugins[0].context.mine=x"), "what is said last holds")
}

const digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestTheShippedPartsComeWithTheirPullSecrets(t *testing.T) {
	c := shipped(t, "--set", "image.pullSecrets={one,two}")
	for _, name := range c.Names() {
		fitted, err := injector.Inject(pod(t, plain), c, []string{name}, values)
		require.NoError(t, err)
		require.Equal(t, []corev1.LocalObjectReference{{Name: "one"}, {Name: "two"}}, fitted.Spec.ImagePullSecrets, name)
	}
}

// What signs in to roles is in the container of the FUSE clients and in no other.
func TestATokenForRolesIsTheClientsAlone(t *testing.T) {
	c := shipped(t, "--set", "agent.oss.sts=https://sts.example.com/x,agent.oss.audience=buckets,agent.oss.expirationSeconds=900")
	fitted, err := injector.Inject(pod(t, plain), c, []string{"agent-runtime", "csi"}, values)
	require.NoError(t, err)

	const volume, dir = "sandgate-oss-token", "/var/run/secrets/sandgate.dev/oss"
	found := slices.IndexFunc(fitted.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == volume })
	require.GreaterOrEqual(t, found, 0)
	require.Equal(t, []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
		Audience: "buckets", ExpirationSeconds: ptr.To[int64](900), Path: "token",
	}}}, fitted.Spec.Volumes[found].Projected.Sources)
	var holders []string
	for _, container := range append(fitted.Spec.InitContainers, fitted.Spec.Containers...) {
		if slices.ContainsFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == volume && m.MountPath == dir && m.ReadOnly }) {
			holders = append(holders, container.Name)
			require.Subset(t, container.Args, []string{"-oss-sts=https://sts.example.com/x", "-oss-token=" + dir + "/token"})
		}
	}
	require.Equal(t, []string{"sandgate-clients"}, holders)

	curious := pod(t, plain)
	curious.Spec.Containers[0].VolumeMounts = append(curious.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: volume, MountPath: "/t"})
	_, err = injector.Inject(curious, c, []string{"agent-runtime", "csi"}, values)
	require.ErrorContains(t, err, volume, "a template does not get at it by its name")
}

func TestTheShippedAgentGetsTheVolumesOfThePool(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(chart.Dir(t), "files", "injection", "csi.yaml"))
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(text), "\ncsiSidecar:\n")
	list, _, _ := strings.Cut(rest, "\nmainContainer:\n")
	names := regexp.MustCompile(`(?m)^- name: (\S+)`).FindAllStringSubmatch(list, -1)
	require.Equal(t, "sandgate-csiagent", names[len(names)-1][1], "the last sidecar is the agent")
}
