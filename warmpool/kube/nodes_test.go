package kube

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// ready is a piece of stock of a set on a node.
func ready(set types.UID, node string) *v1alpha1.Sandbox {
	id := warmpool.NewID()
	return &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{
			UID: types.UID(id), ResourceVersion: "7", Labels: map[string]string{v1alpha1.LabelSandboxID: string(id), v1alpha1.LabelPool: "base"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "SandboxSet", UID: set, Controller: ptr.To(true)}},
		},
		Status: v1alpha1.SandboxStatus{
			SandboxIP: "10.1.1.1", PodInfo: v1alpha1.PodInfo{NodeName: node},
			Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue}},
		},
	}
}

func TestStockIsTakenFromTheNodesThatAreWanted(t *testing.T) {
	const set = types.UID("set")
	s := newShelf(time.Now)
	for i := range 30 {
		s.put(ready(set, fmt.Sprint("n", i%3)), true)
	}
	for range 10 {
		w := s.line(set, []string{"n1", "elsewhere"}, func(int) {})
		require.Zero(t, w.want())
		require.Equal(t, "n1", (<-w.got).sb.Status.PodInfo.NodeName)
	}
	picky := s.line(set, []string{"n1"}, func(int) {})
	defer picky.leave()
	require.Equal(t, 1, picky.want(), "stock of other nodes is none")
	have, _ := s.counts(set, pool{})
	require.Equal(t, 20, have)

	w := s.line(set, nil, func(int) {})
	require.Zero(t, w.want(), "whom any will do does not wait behind him")
	<-w.got
}

func TestStockGoesToTheFirstInLineThatItWillDoFor(t *testing.T) {
	const set = types.UID("set")
	s := newShelf(time.Now)
	inLine := 0
	wait := func(nodes ...string) *waiter {
		w := s.line(set, nodes, func(delta int) { inLine += delta })
		require.Positive(t, w.want())
		t.Cleanup(w.leave)
		return w
	}
	a, b, anywhere := wait("a"), wait("b"), wait()
	nodeOf := func(w *waiter) string {
		select {
		case c := <-w.got:
			return c.sb.Status.PodInfo.NodeName
		default:
			return ""
		}
	}
	s.put(ready(set, "b"), true)
	require.Equal(t, []string{"", "b", ""}, []string{nodeOf(a), nodeOf(b), nodeOf(anywhere)})
	s.put(ready(set, "b"), true)
	require.Equal(t, []string{"", "b"}, []string{nodeOf(a), nodeOf(anywhere)})
	s.put(ready(set, "b"), true)
	require.Empty(t, nodeOf(a))
	have, _ := s.counts(set, pool{})
	require.Equal(t, 1, have, "it is stock for others")
	s.put(ready(set, "a"), true)
	require.Equal(t, "a", nodeOf(a))
	require.Zero(t, inLine)
}

func TestASandboxThatIsMadeForAClaimGoesToItsNodes(t *testing.T) {
	zone := corev1.NodeSelectorRequirement{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{"z"}}
	disk := corev1.NodeSelectorRequirement{Key: "disk", Operator: corev1.NodeSelectorOpExists}
	name := func(node string) []corev1.NodeSelectorRequirement {
		return []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}
	}
	term := func(node string, own ...corev1.NodeSelectorRequirement) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchExpressions: own, MatchFields: name(node)}
	}
	for what, c := range map[string]struct {
		own  *corev1.Affinity
		want []corev1.NodeSelectorTerm
	}{
		"of a template that asks nothing": {nil, []corev1.NodeSelectorTerm{term("a"), term("b")}},
		"of one that wishes":              {&corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{}}, []corev1.NodeSelectorTerm{term("a"), term("b")}},
		"of one that asks": {&corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{zone}}, {MatchExpressions: []corev1.NodeSelectorRequirement{disk}}},
		}}}, []corev1.NodeSelectorTerm{term("a", zone), term("b", zone), term("a", disk), term("b", disk)}},
	} {
		t.Run(what, func(t *testing.T) {
			pod := &corev1.PodSpec{Affinity: c.own.DeepCopy()}
			bind(pod, []string{"a", "b"})
			require.Equal(t, c.want, pod.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms)
			if c.own != nil {
				require.Equal(t, c.own.PodAntiAffinity, pod.Affinity.PodAntiAffinity)
			}
		})
	}
}
