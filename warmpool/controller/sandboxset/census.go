package sandboxset

import (
	"cmp"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// stock is what there is of a set's unclaimed sandboxes. Those that are being deleted count for nothing.
type stock struct {
	ready   []*v1alpha1.Sandbox
	waiting []*v1alpha1.Sandbox // in the making, or in trouble
	failed  []*v1alpha1.Sandbox // for good
	unseen  int                 // made, and not in the cache yet
	claimed int                 // of this pool, whoever made them
}

func (s *stock) total() int { return len(s.ready) + len(s.waiting) + s.unseen }

// count sorts the sandboxes of a pool. They are the cache's own: nobody changes them.
func (p *pass) count(all []v1alpha1.Sandbox) {
	m := p.memory
	live := map[types.UID]bool{} // deleted, and the cache does not say so yet
	for i := range all {
		sb := &all[i]
		delete(m.made, sb.Name)
		switch {
		case sb.DeletionTimestamp != nil:
		case sb.Spec.Claim != nil:
			p.stock.claimed++
		case !owned(sb, p.set):
		case m.ended[sb.UID]:
			live[sb.UID] = true
		case failed(sb), p.lost(sb):
			p.stock.failed = append(p.stock.failed, sb)
		case meta.IsStatusConditionTrue(sb.Status.Conditions, v1alpha1.ConditionReady):
			p.stock.ready = append(p.stock.ready, sb)
		default:
			p.stock.waiting = append(p.stock.waiting, sb)
		}
	}
	m.ended = live
	p.stock.unseen = len(m.made)
}

// lostFor is how long stock may be on a node that does not answer.
const lostFor = time.Minute

// lost says whether stock is on a node that has not answered for long: it is replaced before Kubernetes gives its pod up.
func (p *pass) lost(sb *v1alpha1.Sandbox) bool {
	c := meta.FindStatusCondition(sb.Status.Conditions, v1alpha1.ConditionReady)
	if c == nil || c.Status == metav1.ConditionTrue || c.Reason != v1alpha1.ReasonNodeLost {
		return false
	}
	left := lostFor - p.now.Sub(c.LastTransitionTime.Time)
	if left > 0 {
		p.again(left)
	}
	return left <= 0
}

// owned says whether a Sandbox is a set's own: the reference decides, a label alone means nothing.
func owned(sb *v1alpha1.Sandbox, set *v1alpha1.SandboxSet) bool {
	ref := metav1.GetControllerOf(sb)
	return ref != nil && ref.UID == set.UID && sb.Labels[v1alpha1.LabelClaimed] != "true"
}

func failed(sb *v1alpha1.Sandbox) bool {
	return sb.Status.Phase == v1alpha1.PhaseFailed || sb.Status.Phase == v1alpha1.PhaseSucceeded
}

func (p *pass) stale(sb *v1alpha1.Sandbox) bool {
	return sb.Labels[v1alpha1.LabelRevision] != p.revision
}

// split takes the stale ones out.
func (p *pass) split(all []*v1alpha1.Sandbox) (stale, current []*v1alpha1.Sandbox) {
	for _, sb := range all {
		if p.stale(sb) {
			stale = append(stale, sb)
		} else {
			current = append(current, sb)
		}
	}
	return stale, current
}

// newestFirst orders stock; names make it the same each time, so that a deletion whose answer was lost is tried on the same one.
func newestFirst(a, b *v1alpha1.Sandbox) int {
	return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// surplus orders stock by what goes first when there is too much: what is not ready, then what is stale, then the newest.
func (p *pass) surplus() []*v1alpha1.Sandbox {
	var out []*v1alpha1.Sandbox
	for _, group := range [][]*v1alpha1.Sandbox{p.stock.waiting, p.stock.ready} {
		stale, current := group, []*v1alpha1.Sandbox(nil)
		if p.revision != "" {
			stale, current = p.split(group)
		}
		for _, part := range [][]*v1alpha1.Sandbox{stale, current} {
			part = slices.Clone(part)
			slices.SortFunc(part, newestFirst)
			out = append(out, part...)
		}
	}
	return out
}
