package volume_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

func by(key string, op corev1.NodeSelectorOperator, values ...string) corev1.NodeSelectorRequirement {
	return corev1.NodeSelectorRequirement{Key: key, Operator: op, Values: values}
}

func label(all ...corev1.NodeSelectorRequirement) corev1.NodeSelectorTerm {
	return corev1.NodeSelectorTerm{MatchExpressions: all}
}

// on is a volume of one directory, on nodes that fit one of the terms.
func on(terms ...corev1.NodeSelectorTerm) *corev1.PersistentVolume {
	pv := plain(corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/srv/x"}})
	pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: terms}}
	return pv
}

const in, host, zone = corev1.NodeSelectorOpIn, corev1.LabelHostname, corev1.LabelTopologyZone

func TestAVolumeIsOnTheNodesThatItsAffinityNames(t *testing.T) {
	ignored := on(label(by(zone, in, "z")))
	ignored.Annotations = map[string]string{v1alpha1.AnnotationNodeAffinity: "ignore"}
	mistaken := on(label(by(host, in, "a")))
	mistaken.Annotations = map[string]string{v1alpha1.AnnotationNodeAffinity: "no"}
	ofDriver := on(label(by(host, in, "a")))
	ofDriver.Spec.PersistentVolumeSource = tmpfs().Spec.PersistentVolumeSource
	for name, c := range map[string]struct {
		volume *corev1.PersistentVolume
		want   []string
		reason string
	}{
		"no affinity":               {tmpfs(), nil, ""},
		"one that is empty":         {tmpfs(func(pv *corev1.PersistentVolume) { pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{} }), nil, ""},
		"a label":                   {on(label(by(host, in, "b", "a"))), []string{"a", "b"}, ""},
		"a field":                   {on(corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{by("metadata.name", in, "a")}}), []string{"a"}, ""},
		"both must hold":            {on(corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{by(host, in, "a", "b")}, MatchFields: []corev1.NodeSelectorRequirement{by("metadata.name", in, "b", "c")}}), []string{"b"}, ""},
		"one term of two":           {on(label(by(host, in, "b")), label(by(host, in, "a"), by(host, in, "a", "c"))), []string{"a", "b"}, ""},
		"of a CSI volume":           {ofDriver, []string{"a"}, ""},
		"of others, ignored":        {ignored, nil, ""},
		"a term without anything":   {on(corev1.NodeSelectorTerm{}), nil, "that no node fits"},
		"a term that nothing fits":  {on(label(by(host, in, "a"), by(host, in, "b"))), nil, "that no node fits"},
		"no term":                   {on(), nil, "that no node fits"},
		"a zone":                    {on(label(by(zone, in, "z"))), nil, `by "topology.kubernetes.io/zone" with operator In`},
		"a zone beside a node":      {on(label(by(host, in, "a"), by(zone, in, "z"))), nil, "topology.kubernetes.io/zone"},
		"a zone or a node":          {on(label(by(host, in, "a")), label(by(zone, in, "z"))), nil, "sandgate.dev/node-affinity: ignore"},
		"all nodes but one":         {on(label(by(host, corev1.NodeSelectorOpNotIn, "a"))), nil, `by "kubernetes.io/hostname" with operator NotIn`},
		"a label among the fields":  {on(corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{by(host, in, "a")}}), nil, "kubernetes.io/hostname"},
		"an annotation without use": {mistaken, nil, "annotation sandgate.dev/node-affinity must be ignore"},
	} {
		t.Run(name, func(t *testing.T) {
			ms, err := volume.Resolve(t.Context(), &objects{volumes: map[string]*corev1.PersistentVolume{"pv": c.volume}}, request(spec("pv")))
			if c.reason != "" {
				require.ErrorContains(t, err, c.reason)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, ms[0].Nodes)
			require.Equal(t, c.want, volume.Nodes(ms))
		})
	}
}

func TestVolumesMustBeWhereTheSandboxIs(t *testing.T) {
	claim, claimed := bound()
	claimed.Spec.NodeAffinity = on(label(by(host, in, "a"))).Spec.NodeAffinity
	r := &objects{
		volumes: map[string]*corev1.PersistentVolume{
			"a": on(label(by(host, in, "a"))), "ab": on(label(by(host, in, "a", "b"))), "bc": on(label(by(host, in, "b", "c"))), "all": tmpfs(), "pv": claimed,
		},
		claims: map[string]*corev1.PersistentVolumeClaim{"pools/work": claim},
	}
	for name, c := range map[string]struct {
		node    *string
		volumes []string
		nodes   []string
		fault   int // the index of the volume, -1 for none
	}{
		"anywhere":                    {nil, []string{"all", "all"}, nil, -1},
		"where both are":              {nil, []string{"ab", "all", "bc"}, []string{"b"}, -1},
		"nowhere together":            {nil, []string{"a", "all", "bc"}, nil, 2},
		"on the sandbox's node":       {ptr.To("a"), []string{"a", "ab", "all"}, []string{"a"}, -1},
		"on another one":              {ptr.To("a"), []string{"ab", "bc"}, nil, 1},
		"on a node that is not known": {ptr.To(""), []string{"all", "a"}, nil, 1},
		"by a claim":                  {nil, []string{"claim", "ab"}, []string{"a"}, -1},
		"by a claim on another node":  {ptr.To("b"), []string{"claim"}, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var specs []mount.Spec
			for _, v := range c.volumes {
				s := spec(v)
				if v == "claim" {
					s = ofClaim("work")
				}
				specs = append(specs, s)
			}
			req := inPools(specs...)
			req.Node, req.Default = c.node, volume.Allow
			ms, err := volume.Resolve(t.Context(), r, req)
			if c.fault < 0 {
				require.NoError(t, err)
				require.Equal(t, c.nodes, volume.Nodes(ms))
				return
			}
			var faults mount.Faults
			require.ErrorAs(t, err, &faults)
			require.Len(t, faults, 1)
			require.Equal(t, c.fault, faults[0].Index)
			want := "is on no node that has the other volumes too"
			if c.node != nil {
				want = "is not on the node of the sandbox"
			}
			require.Contains(t, faults[0].Reason, want)
		})
	}
}
