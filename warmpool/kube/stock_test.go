package kube

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

func TestThoseWhoWaitForCertainNodesAreNobodysQueue(t *testing.T) {
	s := newShelf(time.Now)
	for range 5 {
		w := s.line("set", []string{"gone"}, func(int) {})
		defer w.leave()
		w.want()
	}
	for place := range 2 {
		w := s.line("set", nil, func(int) {})
		defer w.leave()
		require.Equal(t, place+1, w.want())
	}
}

func TestACandidateThatHasChangedMeanwhileIsNotTried(t *testing.T) {
	const set = types.UID("set")
	id := warmpool.NewID()
	stock := func(version string, change func(*v1alpha1.Sandbox)) *v1alpha1.Sandbox {
		sb := &v1alpha1.Sandbox{
			ObjectMeta: metav1.ObjectMeta{
				UID: "sandbox", ResourceVersion: version, Labels: map[string]string{v1alpha1.LabelSandboxID: string(id), v1alpha1.LabelPool: "base"},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "SandboxSet", UID: set, Controller: ptr.To(true)}},
			},
			Status: v1alpha1.SandboxStatus{
				SandboxIP: "10.1.1.1", Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue}},
			},
		}
		change(sb)
		return sb
	}
	for name, c := range map[string]struct {
		change func(*v1alpha1.Sandbox)
		place  int // of whoever asks for the next candidate
	}{
		"another replica has claimed it": {func(sb *v1alpha1.Sandbox) { sb.Spec.Claim = &v1alpha1.Claim{} }, 1},
		"it has ended":                   {func(sb *v1alpha1.Sandbox) { sb.DeletionTimestamp = &metav1.Time{} }, 1},
		"it is stock all the same":       {func(sb *v1alpha1.Sandbox) { sb.Annotations = map[string]string{"a": "b"} }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(time.Now)
			w := s.line(set, nil, func(int) {})
			defer w.leave()
			require.Equal(t, 1, w.want())
			s.put(stock("7", func(*v1alpha1.Sandbox) {}), true)
			got := <-w.got
			require.True(t, s.holds(got))
			s.put(stock("8", c.change), true)
			require.False(t, s.holds(got))
			require.Equal(t, c.place, w.want())
		})
	}
}
