package manifest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const goodSet = `apiVersion: agents.kruise.io/v1alpha1
kind: SandboxSet
metadata: {name: base}
spec:
  replicas: 2
  template:
    spec:
      containers:
      - name: sandbox
        image: x
`

const goodVolume = `apiVersion: v1
kind: PersistentVolume
metadata: {name: pv}
spec:
  accessModes: [ReadWriteMany]
  capacity: {storage: 1Gi}
  hostPath: {path: /srv}
`

const goodSecret = `apiVersion: v1
kind: Secret
metadata: {name: s, namespace: sandbox-system}
stringData:
  akId: canary1
  akSecret: canary2
`

// edit replaces the first from in text, which must be there.
func edit(t *testing.T, text, from, to string) string {
	t.Helper()
	require.Contains(t, text, from)
	return strings.Replace(text, from, to, 1)
}

func loadText(text string) (*snapshot, error) { return load([]file{{"f.yaml", []byte(text)}}) }

func TestGoodManifestsLoad(t *testing.T) {
	snap, err := loadText("---\n" + goodSet + "---\n" + goodVolume + "---\n# nothing\n---\n" + goodSecret + "---\nkind: ConfigMap\nwhatever: 1\n")
	require.NoError(t, err)
	require.Equal(t, int32(2), snap.sets["base"].Spec.Replicas)
	require.Equal(t, "default", snap.sets["base"].Namespace)
	require.Equal(t, "/srv", snap.volumes["pv"].Spec.HostPath.Path)
	require.Equal(t, "canary1", string(snap.secrets[key{"sandbox-system", "s"}].Data["akId"]))
	require.Len(t, snap.ignored, 1)
}

// As kubectl writes what a cluster has, with all that servers fill in.
const served = `apiVersion: v1
items:
- apiVersion: agents.kruise.io/v1alpha1
  kind: SandboxSet
  metadata:
    annotations:
      kubectl.kubernetes.io/last-applied-configuration: |
        {"apiVersion":"agents.kruise.io/v1alpha1"}
    creationTimestamp: "2026-01-02T03:04:05Z"
    finalizers: [agents.kruise.io/protect]
    generation: 3
    managedFields:
    - apiVersion: agents.kruise.io/v1alpha1
      fieldsType: FieldsV1
      fieldsV1: {"f:spec": {"f:replicas": {}}}
      manager: kubectl
      operation: Update
      time: "2026-01-02T03:04:05Z"
    name: base
    namespace: default
    resourceVersion: "12345"
    uid: 0b0e3f0e-6f3a-4d9e-9c56-0d6a3b2f7f11
  spec:
    replicas: 2
    scaleStrategy: {maxUnavailable: 20%}
    updateStrategy: {maxUnavailable: 1}
    template:
      metadata: {creationTimestamp: null}
      spec:
        containers: [{name: sandbox, image: x, terminationMessagePath: /dev/termination-log}]
        dnsPolicy: ClusterFirst
        restartPolicy: Always
        schedulerName: default-scheduler
        securityContext: {}
  status:
    availableReplicas: 2
    selector: a=b
- apiVersion: v1
  kind: PersistentVolume
  metadata: {name: pv, uid: 5e0e3f0e-6f3a-4d9e-9c56-0d6a3b2f7f11, resourceVersion: "7"}
  spec:
    accessModes: [ReadWriteMany]
    capacity: {storage: 1Gi}
    hostPath: {path: /srv, type: ""}
    persistentVolumeReclaimPolicy: Retain
    volumeMode: Filesystem
  status: {phase: Available, lastPhaseTransitionTime: "2026-01-02T03:04:05Z"}
- apiVersion: v1
  kind: Secret
  metadata: {name: s, namespace: sandbox-system, creationTimestamp: "2026-01-02T03:04:05Z"}
  type: Opaque
  data: {akId: Y2FuYXJ5}
kind: List
metadata: {resourceVersion: ""}
`

func TestWhatAClusterGivesOutLoads(t *testing.T) {
	snap, err := loadText(served)
	require.NoError(t, err)
	require.Equal(t, int32(2), snap.sets["base"].Spec.Replicas)
	require.Equal(t, "/srv", snap.volumes["pv"].Spec.HostPath.Path)
	require.Equal(t, "canary", string(snap.secrets[key{"sandbox-system", "s"}].Data["akId"]))
	require.Equal(t, []string{"f.yaml: SandboxSet/base: spec.scaleStrategy", "f.yaml: SandboxSet/base: spec.updateStrategy"}, snap.ignored)
}

func TestFaultsNameFileLineAndField(t *testing.T) {
	set := func(from, to string) string { return edit(t, goodSet, from, to) }
	pv := func(from, to string) string { return edit(t, goodVolume, from, to) }
	cases := []struct{ name, text, want string }{
		{"an empty file", "", "f.yaml: is empty"},
		{"not YAML", "a: [1\nb: 2\n", "f.yaml:"},
		{"not a mapping", "- a\n", "f.yaml:1: want a mapping"},
		{"no kind", "apiVersion: v1\n", "f.yaml:1: kind: want one of PersistentVolume, "},
		{"an unknown kind", "apiVersion: v1\nkind: Pod\n", "f.yaml:2: kind: want one of"},
		{"a wrong version", set("v1alpha1", "v1"), "f.yaml:1: SandboxSet/base: apiVersion: want agents.kruise.io/v1alpha1"},
		{"an unknown field", set("  replicas", "  replica"), "f.yaml:5: SandboxSet/base: spec.replica: unknown field"},
		{"a field in another case", set("replicas", "Replicas"), "f.yaml:5: SandboxSet/base: spec.Replicas: unknown field"},
		{"a pod by reference", set("replicas: 2", "templateRef: {name: x}"), "f.yaml:5: SandboxSet/base: spec.templateRef: is not supported on one machine; write"},
		{"claims for each sandbox", set("replicas: 2", "volumeClaimTemplates: []"), "f.yaml:5: SandboxSet/base: spec.volumeClaimTemplates: is not supported"},
		{"a volume of the set without a source", set("replicas: 2", "runtimes: [{name: csi}]\n  volumes: [{name: a, mountPath: /a}]"), "give exactly one of nfs"},
		{
			"a volume of the set in a reserved place",
			set("replicas: 2", "runtimes: [{name: csi}]\n  volumes: [{name: a, mountPath: /etc/a, hostPath: {path: /srv}}]"), "must not be below /etc",
		},
		{
			"a volume of the set at an unknown time",
			set("replicas: 2", "volumes: [{name: a, mountPath: /a, mountAt: Later, hostPath: {path: /srv}}]"), "spec.volumes[0].mountAt: want Ready or Claim",
		},
		{"what survives a pause", set("replicas: 2", "persistentContents: [ip]"), "spec.persistentContents: is not supported"},
		{"a list without items", "apiVersion: v1\nkind: List\nitem: []\n", "f.yaml:1: items: a List wants items"},
		{"a list in a list", "kind: List\nitems: [{kind: List, items: []}]\n", "f.yaml:2: kind: want one of"},
		{"an object of a list that is none", "kind: List\nitems: [a]\n", "f.yaml:2: want a mapping"},
		{"an object of a list that is wrong", "kind: List\nitems:\n- " + strings.ReplaceAll(set("replicas: 2", "replicas: x"), "\n", "\n  "), "f.yaml:7: SandboxSet/base: spec.replicas: want a whole number"},
		{"an alias bomb of many objects", "kind: List\nx: &x [1,1,1,1,1,1,1,1,1,1]\ny: &y {kind: [*x,*x,*x,*x,*x,*x,*x,*x,*x,*x]}\nitems: [" + strings.Repeat("*y,", 600) + "*y]\n", "too large, or nested too deeply"},
		{"an unknown field of a container", set("image: x", "imag: x"), "f.yaml:10: SandboxSet/base: spec.template.spec.containers[0].imag: unknown field"},
		{"a wrong type", set("replicas: 2", "replicas: two"), `f.yaml:5: SandboxSet/base: spec.replicas: want a whole number, got "two"`},
		{"a fraction", set("replicas: 2", "replicas: 2.5"), `spec.replicas: want a whole number, got 2.5`},
		{"a number for text", set("image: x", "image: 1"), "f.yaml:10: SandboxSet/base: spec.template.spec.containers[0].image: want text (put it in quotes), got 1"},
		{"a quantity that is none", pv("storage: 1Gi", "storage: much"), `f.yaml:6: PersistentVolume/pv: spec.capacity.storage: want a quantity such as "500m" or "1Gi", got "much"`},
		{"a list for a mapping", pv("hostPath: {path: /srv}", "hostPath: [a]"), "spec.hostPath: want a mapping"},
		{"a mapping for a list", pv("[ReadWriteMany]", "{a: b}"), "spec.accessModes: want a list"},
		{"a key given twice", set("replicas: 2", "replicas: 2\n  replicas: 3"), "f.yaml:6: SandboxSet/base: spec.replicas: given twice"},
		{"a merge key", set("image: x", "<<: {image: x}"), "merge keys"},
		{"an object given twice", goodVolume + "---\n" + goodVolume, "f.yaml:11: PersistentVolume/pv: metadata.name: PersistentVolume pv is already given at f.yaml:3"},
		{"two sets of one template name", goodSet + "---\n" + set("{name: base}", "{name: base, namespace: other}"), "metadata.name: template base is already given at f.yaml:3"},
		{"an alias that is a name", set("{name: base}", `{name: base, annotations: {sandgate.dev/aliases: "x,base"}}`), "template base is already given"},
		{"an alias that is none", set("{name: base}", `{name: base, annotations: {sandgate.dev/aliases: "A b"}}`), "metadata.annotations.sandgate.dev/aliases: want names"},
		{"a network that is none", set("{name: base}", `{name: base, annotations: {sandgate.dev/network: host}}`), "metadata.annotations.sandgate.dev/network: want none or pasta"},
		{"a name that is none", set("base", "Base_1"), "f.yaml:3: SandboxSet/Base_1: metadata.name: want lowercase"},
		{"no name", set("{name: base}", "{}"), "metadata.name: want lowercase"},
		{"a namespace that is none", set("{name: base}", "{name: base, namespace: A}"), "metadata.namespace: want"},
		{"negative replicas", set("replicas: 2", "replicas: -1"), "f.yaml:5: SandboxSet/base: spec.replicas: want 0 or more"},
		{"no container", goodSet[:strings.Index(goodSet, "      containers")] + "      containers: []\n", "spec.template.spec.containers: want at least one"},
		{"a container without name", set("name: sandbox", `name: ""`), "f.yaml:9: SandboxSet/base: spec.template.spec.containers[0].name: want"},
		{"a runtime given twice", set("replicas: 2", "runtimes: [{name: csi}, {name: csi}]"), "spec.runtimes[1].name: given twice"},
		{"a limit of 0", set("image: x", "resources: {limits: {cpu: 0}}"), "containers[0].resources.limits.cpu: want more than 0"},
		{"a request above its limit", set("image: x", "resources: {limits: {cpu: 1}, requests: {cpu: 2}}"), "requests.cpu: is above the limit"},
		{"a limit beyond all machines", set("image: x", "resources: {limits: {memory: 8E}}"), "larger than any machine"},
		{"a mount path that climbs", set("image: x", "volumeMounts: [{name: v, mountPath: /a/../b}]"), "volumeMounts[0].mountPath: want an absolute path"},
		{"a user that is none", set("image: x", "securityContext: {runAsUser: -1}"), "runAsUser: want 0 to"},
		{"no access mode", pv("  accessModes: [ReadWriteMany]\n", ""), "spec.accessModes: required"},
		{"an unknown access mode", pv("ReadWriteMany", "ReadWrite"), "f.yaml:5: PersistentVolume/pv: spec.accessModes[0]: want one of"},
		{"no capacity", pv("  capacity: {storage: 1Gi}\n", ""), "spec.capacity.storage: required"},
		{"no source", pv("  hostPath: {path: /srv}\n", ""), "want exactly one source such as csi, hostPath or local, got 0"},
		{"two sources", pv("hostPath: {path: /srv}", "hostPath: {path: /srv}\n  local: {path: /srv}"), "got 2"},
		{"a relative host path", pv("/srv", "srv"), "spec.hostPath.path: want an absolute path"},
		{"no driver", pv("hostPath: {path: /srv}", "csi: {volumeHandle: h}"), "spec.csi.driver: required"},
		{"a volume in a namespace", pv("{name: pv}", "{name: pv, namespace: x}"), "a PersistentVolume has none"},
		{"an alias bomb", "kind: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n", "too large, or nested too deeply"},
		{"an alias that holds itself", "kind: &a [*a]\n", "too large, or nested too deeply"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := loadText(c.text)
			require.ErrorContains(t, err, c.want)
			require.True(t, strings.HasPrefix(err.Error(), "f.yaml:"), err.Error())
		})
	}
}

func TestEveryFaultIsNamed(t *testing.T) {
	text := edit(t, edit(t, goodSet, "replicas: 2", "replicas: x"), "image: x", "imag: x") + "---\n" + edit(t, goodVolume, "1Gi", "z")
	_, err := loadText(text)
	var faults Faults
	require.ErrorAs(t, err, &faults)
	require.Len(t, faults, 3, err.Error())
}

func TestASecretIsNeverQuoted(t *testing.T) {
	cases := []struct{ name, text, want string }{
		{"a value of the wrong type", edit(t, goodSecret, "akId: canary1", "akId: [canary1]"), "f.yaml:5: Secret/s: stringData: want text"},
		{"a number", edit(t, goodSecret, "akId: canary1", "akId: 12345678"), "stringData: want text"},
		{"a value that is a mapping", edit(t, goodSecret, "akId: canary1", "akId: {canary1: canary2}"), "stringData: want text"},
		{"a value that became a key", edit(t, goodSecret, "stringData:", "canary1: canary2\nstringData:"), "f.yaml:4: Secret/s: unknown field"},
		{"a value that became a key of stringData", edit(t, goodSecret, "akId: canary1", "canary1:"), "stringData: is empty"},
		{"data that is not base64", edit(t, goodSecret, "stringData", "data"), "data: want base64 text"},
		{"a key given twice", edit(t, goodSecret, "akId: canary1", "canary1: a\n  canary1: b"), "stringData: given twice"},
		{"a syntax error", edit(t, goodSecret, "akId: canary1", "akId: [canary1"), "details are withheld"},
		{"an alias of nothing", edit(t, goodSecret, "akId: canary1", "akId: *canary1"), "details are withheld"},
		{"a bad name", edit(t, goodSecret, "name: s,", "name: S,"), "metadata.name: want"},
		{"a Secret in a list", "kind: List\nitems:\n- " + strings.ReplaceAll(edit(t, goodSecret, "akId: canary1", "akId: [canary1]"), "\n", "\n  "), "stringData: want text"},
		{"another kind's fields", edit(t, goodSecret, "stringData:", "spec:"), "unknown field"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := loadText(c.text)
			require.ErrorContains(t, err, c.want)
			for _, leak := range []string{"canary", "12345678"} {
				require.NotContains(t, err.Error(), leak)
			}
		})
	}
}

func TestAVolumeThatAClaimNamesIsTheClaims(t *testing.T) {
	const claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: database, namespace: prod}\nspec: {accessModes: [ReadWriteMany], volumeName: pv}\n"
	for name, c := range map[string]struct{ text, want string }{
		"before the volume":                   {claim + "---\n" + goodVolume, "prod/database"},
		"after the volume":                    {goodVolume + "---\n" + claim, "prod/database"},
		"of another volume":                   {goodVolume + "---\n" + edit(t, claim, "volumeName: pv", "volumeName: other"), ""},
		"of none":                             {goodVolume + "---\n" + edit(t, claim, ", volumeName: pv", ""), ""},
		"of a volume that is another claim's": {edit(t, goodVolume, "hostPath:", "claimRef: {namespace: a, name: b}\n  hostPath:") + "---\n" + claim, "a/b"},
	} {
		snap, err := loadText(c.text)
		require.NoError(t, err, name)
		got := ""
		if ref := snap.volumes["pv"].Spec.ClaimRef; ref != nil {
			got = ref.Namespace + "/" + ref.Name
		}
		require.Equal(t, c.want, got, name)
	}
}

func TestStringDataWinsOverData(t *testing.T) {
	snap, err := loadText(edit(t, goodSecret, "stringData:", "data: {akId: b2xk, other: b2xk}\nstringData:"))
	require.NoError(t, err)
	s := snap.secrets[key{"sandbox-system", "s"}]
	require.Equal(t, map[string][]byte{"akId": []byte("canary1"), "akSecret": []byte("canary2"), "other": []byte("old")}, s.Data)
	require.Nil(t, s.StringData)
}

func TestScalarsAreWhatTheyLookLike(t *testing.T) {
	snap, err := loadText(edit(t, goodSecret, "akId: canary1", "akId: 2026-01-02\n  hex: \"0x10\"\n  yes: yes\n  block: |\n    a\n    b\n"))
	require.NoError(t, err)
	data := snap.secrets[key{"sandbox-system", "s"}].Data
	require.Equal(t, "2026-01-02", string(data["akId"]))
	require.Equal(t, "0x10", string(data["hex"]))
	require.Equal(t, "yes", string(data["yes"]))
	require.Equal(t, "a\nb\n", string(data["block"]))
}

func TestAnchorsAreFilledIn(t *testing.T) {
	snap, err := loadText(edit(t, goodSet, "image: x", "image: x\n        resources: {limits: &r {cpu: 1500m}, requests: *r}"))
	require.NoError(t, err)
	set := snap.sets["base"]
	require.Equal(t, "1500m", set.Spec.Template.Spec.Containers[0].Resources.Requests.Cpu().String())
}

func FuzzLoad(f *testing.F) {
	for _, seed := range []string{served, goodSet, goodVolume, goodSecret, goodSet + "---\n" + goodSecret, "a: &a [*a]", "? [a]\n: b", "<<: {a: b}", "kind: !!int x", "kind: 99999999999999999999", "kind: .inf"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		snap, err := loadText(text)
		if (snap == nil) == (err == nil) {
			t.Fatal("want a snapshot or an error")
		}
	})
}
