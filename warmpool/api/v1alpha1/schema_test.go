package v1alpha1_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest/apiserver"
)

func TestMain(m *testing.M) { apiserver.Main(m) }

// objects reads a file of YAML documents.
func objects(t *testing.T, path string) []*unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var out []*unstructured.Unstructured
	for _, doc := range bytes.Split(text, []byte("\n---\n")) {
		u := &unstructured.Unstructured{}
		text, err := yaml.YAMLToJSON(doc)
		require.NoError(t, err)
		require.NoError(t, u.UnmarshalJSON(text)) // whole numbers as the API server returns them
		out = append(out, u)
	}
	return out
}

func TestManifestsOfTheContractAndOfOpenkruiseLoadUnchanged(t *testing.T) {
	cfg := apiserver.Start(t)
	c := apiserver.Client(t, cfg)
	ns := apiserver.Namespace(t, c)
	strict := client.FieldValidation("Strict")
	for _, file := range []string{"testdata/openkruise.yaml", "../../../e2e/testdata/seed/sandboxset.yaml"} {
		for _, want := range objects(t, file) {
			t.Run(file+" "+want.GetKind()+" "+want.GetName(), func(t *testing.T) {
				want.SetNamespace(ns)
				got := want.DeepCopy()
				require.NoError(t, c.Create(t.Context(), got, strict))
				spec, _, _ := unstructured.NestedMap(want.Object, "spec")
				have, _, _ := unstructured.NestedMap(got.Object, "spec")
				for field := range spec {
					require.Equal(t, spec[field], have[field], field)
				}
			})
		}
	}
}

func sandbox(ns string, edit func(*v1alpha1.Sandbox)) *v1alpha1.Sandbox {
	sb := &v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{GenerateName: "sb-", Namespace: ns}}
	edit(sb)
	return sb
}

func TestTheSchemaRefusesWhatCannotBeMeant(t *testing.T) {
	cfg := apiserver.Start(t)
	c := apiserver.Client(t, cfg)
	ns := apiserver.Namespace(t, c)
	claim := &v1alpha1.Claim{Principal: v1alpha1.Principal{Team: "red"}, Nonce: "n", Time: metav1.NowMicro()}
	for name, want := range map[string]struct {
		edit func(*v1alpha1.Sandbox)
		err  string
	}{
		"a mount without a volume": {func(s *v1alpha1.Sandbox) { s.Spec.Mounts = []v1alpha1.Mount{{ID: "m", Path: "/data"}} }, "spec.mounts[0].volume"},
		"a relative path":          {func(s *v1alpha1.Sandbox) { s.Spec.Mounts = []v1alpha1.Mount{{ID: "m", Volume: "v", Path: "data"}} }, "spec.mounts[0].path"},
		"an ID twice": {func(s *v1alpha1.Sandbox) {
			s.Spec.Mounts = []v1alpha1.Mount{{ID: "m", Volume: "v", Path: "/a"}, {ID: "m", Volume: "v", Path: "/b"}}
		}, "Duplicate value"},
		"a runtime without a name": {func(s *v1alpha1.Sandbox) { s.Spec.Runtimes = []v1alpha1.Runtime{{}} }, "spec.runtimes[0].name"},
		"a claim of no team": {func(s *v1alpha1.Sandbox) {
			s.Spec.Claim = &v1alpha1.Claim{Nonce: "n", Time: metav1.NowMicro()}
		}, "spec.claim.principal.team"},
		"an unknown end":     {func(s *v1alpha1.Sandbox) { s.Spec.Claim = claim.DeepCopy(); s.Spec.Claim.OnTimeout = "Explode" }, "spec.claim.onTimeout"},
		"an unknown content": {func(s *v1alpha1.Sandbox) { s.Spec.PersistentContents = []v1alpha1.PersistentContent{"soul"} }, "spec.persistentContents[0]"},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorContains(t, c.Create(t.Context(), sandbox(ns, want.edit)), want.err)
		})
	}
}

func TestAClaimIsForGood(t *testing.T) {
	cfg := apiserver.Start(t)
	c := apiserver.Client(t, cfg)
	ns := apiserver.Namespace(t, c)
	sb := sandbox(ns, func(*v1alpha1.Sandbox) {})
	require.NoError(t, c.Create(t.Context(), sb))
	sb.Spec.Claim = &v1alpha1.Claim{Principal: v1alpha1.Principal{Team: "red"}, Nonce: "n", Time: metav1.NowMicro()}
	require.NoError(t, c.Update(t.Context(), sb), "unclaimed may be claimed")

	stolen := sb.DeepCopy()
	stolen.Spec.Claim.Principal.Team = "blue"
	require.ErrorContains(t, c.Update(t.Context(), stolen), "principal and nonce of a claim cannot be changed")
	freed := sb.DeepCopy()
	freed.Spec.Claim = nil
	require.ErrorContains(t, c.Update(t.Context(), freed), "a claim is for good")
}

func TestPoolVolumesHaveOneSource(t *testing.T) {
	cfg := apiserver.Start(t)
	c := apiserver.Client(t, cfg)
	ns := apiserver.Namespace(t, c)
	create := func(volume string) error {
		u := &unstructured.Unstructured{}
		require.NoError(t, json.Unmarshal([]byte(`{"spec":{"template":{},"volumes":[`+volume+`]}}`), &u.Object))
		u.SetGroupVersionKind(schema.GroupVersionKind{Group: v1alpha1.Group, Version: v1alpha1.Version, Kind: "SandboxSet"})
		u.SetNamespace(ns)
		u.SetGenerateName("set-")
		return c.Create(t.Context(), u, client.FieldValidation("Strict"))
	}
	require.NoError(t, create(`{"name":"a","mountPath":"/a","nfs":{"server":"s","path":"/p"}}`))
	require.NoError(t, create(`{"name":"a","mountPath":"/a","persistentVolume":{"name":"pv"},"mountAt":"Claim","readOnly":true,"subPath":"${SANDBOX_ID}"}`))
	require.ErrorContains(t, create(`{"name":"a","mountPath":"/a"}`), "exactly one of")
	require.ErrorContains(t, create(`{"name":"a","mountPath":"/a","hostPath":{"path":"/x"},"persistentVolume":{"name":"pv"}}`), "exactly one of")
	require.ErrorContains(t, create(`{"name":"a","mountPath":"a","hostPath":{"path":"/x"}}`), "mountPath")
	require.ErrorContains(t, create(`{"name":"a","mountPath":"/a","hostPath":{"path":"/x"},"mountAt":"Never"}`), "mountAt")
	many := func(n int) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf(`{"name":"v%d","mountPath":"/data/%d","hostPath":{"path":"/x"}}`, i, i))
		}
		return strings.Join(all, ",")
	}
	require.NoError(t, create(many(mount.MostMounts)), "as many as a Sandbox may have mounts")
	require.ErrorContains(t, create(many(mount.MostMounts+1)), "at most 64 items")
}

func TestASetScalesBySubresource(t *testing.T) {
	cfg := apiserver.Start(t)
	c := apiserver.Client(t, cfg)
	ns := apiserver.Namespace(t, c)
	set := &v1alpha1.SandboxSet{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: ns}}
	require.NoError(t, c.Create(t.Context(), set))
	scale := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"replicas": int64(7)}}}
	scale.SetGroupVersionKind(schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"})
	scale.SetName("s")
	scale.SetNamespace(ns)
	require.NoError(t, c.SubResource("scale").Update(t.Context(), set, client.WithSubResourceBody(scale)))
	require.NoError(t, c.Get(t.Context(), client.ObjectKeyFromObject(set), set))
	require.EqualValues(t, 7, set.Spec.Replicas)
}
