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
	ready   group
	waiting group               // in the making, or in trouble
	failed  []*v1alpha1.Sandbox // for good
	unseen  int                 // made, and not in the cache yet
	claimed int                 // of this pool, whoever made them
}

func (s *stock) total() int { return s.ready.len() + s.waiting.len() + s.unseen }

// group is stock of older revisions and of the set's own. Without a revision all of it is stale.
type group struct{ stale, current []*v1alpha1.Sandbox }

func (g *group) len() int { return len(g.stale) + len(g.current) }

func (g *group) add(sb *v1alpha1.Sandbox, stale bool) {
	if stale {
		g.stale = append(g.stale, sb)
	} else {
		g.current = append(g.current, sb)
	}
}

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
			p.stock.ready.add(sb, p.stale(sb))
		default:
			p.stock.waiting.add(sb, p.stale(sb))
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
	ref := metav1.GetControllerOfNoCopy(sb)
	return ref != nil && ref.UID == set.UID && sb.Labels[v1alpha1.LabelClaimed] != "true"
}

func failed(sb *v1alpha1.Sandbox) bool {
	return sb.Status.Phase == v1alpha1.PhaseFailed || sb.Status.Phase == v1alpha1.PhaseSucceeded
}

func (p *pass) stale(sb *v1alpha1.Sandbox) bool {
	return sb.Labels[v1alpha1.LabelRevision] != p.revision
}

// newestFirst orders stock; names make it the same each time, so that a deletion whose answer was lost is tried on the same one.
func newestFirst(a, b *v1alpha1.Sandbox) int {
	return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// surplus orders stock by what goes first when there is too much: what is not ready, then what is stale, then the newest.
func (p *pass) surplus() []*v1alpha1.Sandbox {
	var out []*v1alpha1.Sandbox
	s := &p.stock
	for _, part := range [][]*v1alpha1.Sandbox{s.waiting.stale, s.waiting.current, s.ready.stale, s.ready.current} {
		out = append(out, slices.SortedFunc(slices.Values(part), newestFirst)...)
	}
	return out
}
