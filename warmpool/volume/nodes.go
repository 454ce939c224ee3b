package volume

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// Nodes are those that have the volumes of all of ms, nil for all nodes that there are.
func Nodes(ms []mount.Mount) []string {
	var out []string
	for _, m := range ms {
		out = common(out, m.Nodes)
	}
	return out
}

// common are the names in both lists. A nil one has every name.
func common(a, b []string) []string {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	out := []string{}
	for _, name := range a {
		if slices.Contains(b, name) {
			out = append(out, name)
		}
	}
	return out
}

// ignoreAffinity is the value of v1alpha1.AnnotationNodeAffinity.
const ignoreAffinity = "ignore"

// nodesOf are the nodes that a PersistentVolume is on by its nodeAffinity, nil for all. They are told by their names alone, so that nobody has
// to read their labels: whatever else it says is a reason to refuse the volume, unless its owner has it ignored.
func nodesOf(pv *corev1.PersistentVolume) (nodes []string, reason string) {
	said, there := pv.Annotations[v1alpha1.AnnotationNodeAffinity]
	switch {
	case there && said != ignoreAffinity:
		return nil, fmt.Sprintf("is set up wrongly: annotation %s must be %s", v1alpha1.AnnotationNodeAffinity, ignoreAffinity)
	case there, pv.Spec.NodeAffinity == nil, pv.Spec.NodeAffinity.Required == nil:
		return nil, ""
	}
	nodes = []string{}
	for _, term := range pv.Spec.NodeAffinity.Required.NodeSelectorTerms {
		of, unknown := termNodes(term)
		if unknown != "" {
			return nil, fmt.Sprintf("has a nodeAffinity by %s, which is not looked at here; only %s and %s with operator In are. If every node has it, annotate it with %s: %s",
				unknown, corev1.LabelHostname, metav1.ObjectNameField, v1alpha1.AnnotationNodeAffinity, ignoreAffinity)
		}
		nodes = append(nodes, of...)
	}
	if len(nodes) == 0 {
		return nil, "has a nodeAffinity that no node fits"
	}
	slices.Sort(nodes)
	return slices.Compact(nodes), ""
}

// termNodes are the nodes that fit all of a term's requirements, or the first one that does not tell nodes by name. A term without any fits
// none, as in Kubernetes.
func termNodes(term corev1.NodeSelectorTerm) (nodes []string, unknown string) {
	for key, list := range map[string][]corev1.NodeSelectorRequirement{corev1.LabelHostname: term.MatchExpressions, metav1.ObjectNameField: term.MatchFields} {
		for _, r := range list {
			if r.Key != key || r.Operator != corev1.NodeSelectorOpIn {
				return nil, fmt.Sprintf("%q with operator %s", r.Key, r.Operator)
			}
			nodes = common(nodes, append([]string{}, r.Values...))
		}
	}
	return nodes, ""
}
