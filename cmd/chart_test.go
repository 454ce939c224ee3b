package cmd_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/sandgate-dev/sandgate/gateway/auth"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest/apiserver"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest/chart"
)

const plugin = `agent.plugins[%].runtime=smb,agent.plugins[%].name=smb.csi.k8s.io,agent.plugins[%].image=i,agent.plugins[%].command={x}`

func TestValuesThatCannotWorkAreRefusedByName(t *testing.T) {
	one := strings.ReplaceAll(plugin, "%", "0")
	for set, want := range map[string]string{
		"nonsense=1":                                     "nonsense",
		"metrics=null,apiKeys=null":                      "missing properties 'apiKeys', 'metrics'", // as --reuse-values leaves what an older version had not
		"policy.limits=null":                             "missing property 'limits'",
		"pools.namespaces=default":                       "'/pools/namespaces': got string, want array",
		"pools.namespaces={A_b}":                         "'/pools/namespaces/0'",
		"pools.namespaces={a,a}":                         "are equal",
		"policy.default=all":                             "must be one of 'unbound', 'deny', 'allow'",
		"policy.limits.mountsPerSandbox=65":              "maximum: got 65, want 64",
		"policy.barredEndpoints={sts.example}":           "'/policy/barredEndpoints/0'",
		"networkPolicy.allow={10.0.0.1}":                 "'/networkPolicy/allow/0'",
		"gateway.domain=https://a.b":                     "'/gateway/domain'",
		"gateway.replicas=0":                             "minimum: got 0, want 1",
		"agent.cacheSize=2GB":                            "'/agent/cacheSize'",
		"agent.allowHostPaths={a}":                       "'/agent/allowHostPaths/0'",
		"agent.oss.sts=http://sts.a.b":                   "'/agent/oss/sts'",
		"injection.extra.A=x":                            "invalid propertyName 'A'",
		"injection.extra.csi=x":                          `the runtime "csi" is the chart's own`,
		one + ",injection.extra.csi-smb=x":               `the runtime "csi-smb" is the chart's own`,
		one + "," + strings.ReplaceAll(plugin, "%", "1"): `two of them have the runtime "smb"`,
	} {
		require.Contains(t, chart.Refused(t, "--set", set), want, set)
	}
}

// objects are those that the chart makes, read strictly: a field at a wrong place is none.
func objects(t *testing.T, set ...string) (out []runtime.Object) {
	t.Helper()
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, doc := range bytes.Split(chart.Render(t, "", set...), []byte("\n---\n")) {
		object, _, err := decoder.Decode(doc, nil, nil)
		if runtime.IsNotRegisteredError(err) || runtime.IsMissingKind(err) { // of the product's own kinds, or of somebody else's
			continue
		}
		require.NoError(t, err, string(doc))
		out = append(out, object)
	}
	return out
}

// What is rendered can be applied by others than helm, which does not know the release's namespace.
func TestEveryObjectSaysWhereItIs(t *testing.T) {
	global := []string{"Namespace", "PersistentVolume", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "MutatingWebhookConfiguration"}
	args := []string{"--namespace", "release", "--set", "pools.namespaces={pool},metrics.podMonitor.enabled=true,metrics.alerts.enabled=true,metrics.dashboard.enabled=true"}
	docs := bytes.Split(chart.Render(t, "", args...), []byte("\n---\n"))
	require.Greater(t, len(docs), 30)
	for _, doc := range docs {
		var object metav1.PartialObjectMetadata
		require.NoError(t, yaml.Unmarshal(doc, &object), string(doc))
		if object.Kind == "" || slices.Contains(global, object.Kind) {
			require.Empty(t, object.Namespace, object.Name)
			continue
		}
		require.Contains(t, []string{"release", "pool", "sandbox-system"}, object.Namespace, "%s %s", object.Kind, object.Name)
	}
}

// pods are the pods that objects are or make.
func pods(objects []runtime.Object) map[string]corev1.PodTemplateSpec {
	out := map[string]corev1.PodTemplateSpec{}
	for _, o := range objects {
		switch o := o.(type) {
		case *appsv1.Deployment:
			out[o.Name] = o.Spec.Template
		case *appsv1.DaemonSet:
			out[o.Name] = o.Spec.Template
		case *batchv1.Job:
			out[o.Name] = o.Spec.Template
		case *corev1.Pod:
			out[o.Name] = corev1.PodTemplateSpec{ObjectMeta: o.ObjectMeta, Spec: o.Spec}
		}
	}
	return out
}

func TestEveryPodRunsWhereItsAdministratorSays(t *testing.T) {
	values := filepath.Join(t.TempDir(), "values.yaml")
	require.NoError(t, os.WriteFile(values, []byte(`
image: {pullSecrets: [registry]}
gateway: &where
  podLabels: {team: platform}
  podAnnotations: {note: x}
  priorityClassName: important
  nodeSelector: {role: infra}
  tolerations: [{key: infra, operator: Exists}]
  affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone}]}}
controller: *where
fuseDevice: *where
`), 0o600))
	made := objects(t, "-f", values, "--set", "gateway.service.annotations.reach=internal")
	reach := slices.IndexFunc(made, func(o runtime.Object) bool {
		s, ok := o.(*corev1.Service)
		return ok && s.Annotations["reach"] == "internal"
	})
	require.GreaterOrEqual(t, reach, 0)
	all := pods(made)
	require.Len(t, all, 5)
	for name, p := range all {
		require.Equal(t, []corev1.LocalObjectReference{{Name: "registry"}}, p.Spec.ImagePullSecrets, name)
		require.Equal(t, "important", p.Spec.PriorityClassName, name)
		require.Equal(t, map[string]string{"role": "infra"}, p.Spec.NodeSelector, name)
		require.Len(t, p.Spec.Tolerations, 1, name)
		require.NotNil(t, p.Spec.Affinity.PodAntiAffinity, name)
		require.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, p.Spec.SecurityContext.SeccompProfile.Type, name)
		if name != "sandgate-retire" && name != "sandgate-test" {
			require.Equal(t, "platform", p.Labels["team"], name)
			require.Equal(t, map[string]string{"note": "x"}, p.Annotations, name)
		}
	}
}

func TestAPIKeysOfAnAdministratorAreHisAlone(t *testing.T) {
	for _, o := range objects(t, "--set", "apiKeys.create=false") {
		if s, ok := o.(*corev1.Secret); ok {
			require.NotContains(t, s.Name, "key")
		}
	}
}

func TestAPIKeysStayThroughUpgradeAndUninstall(t *testing.T) {
	c := apiserver.Client(t, apiserver.Start(t))
	release := apiserver.Namespace(t, c)
	dir := chart.Part(t, "templates/access.yaml", "templates/NOTES.txt")
	helm := func(args ...string) string {
		return string(chart.Helm(t, append(args, "--kubeconfig", apiserver.Kubeconfig(t), "--namespace", release)...))
	}
	secrets := func() (out [2]map[string][]byte) {
		for i, name := range []string{"sandgate-admin-key", "sandgate-api-keys"} {
			s := &corev1.Secret{}
			require.NoError(t, c.Get(t.Context(), client.ObjectKey{Namespace: release, Name: name}, s))
			out[i] = s.Data
		}
		return out
	}
	helm("install", "it", dir)
	first := secrets()
	keys, err := auth.Read(first[1]["api-keys.json"])
	require.NoError(t, err)
	who, known := keys.Lookup(string(first[0]["key"]))
	require.True(t, known)
	require.Equal(t, "admin", who.Team)

	require.NotContains(t, helm("upgrade", "it", dir, "--set", "gateway.replicas=3"), string(first[0]["key"]), "an upgrade's log is no place for it")
	require.Equal(t, first, secrets())
	helm("upgrade", "it", dir, "--set", "apiKeys.create=false")
	require.Equal(t, first, secrets(), "they are the administrator's now")
	helm("uninstall", "it")
	require.Equal(t, first, secrets())
	helm("install", "it", dir)
	require.Equal(t, first, secrets())
}
