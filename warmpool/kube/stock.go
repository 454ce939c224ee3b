package kube

import (
	"container/list"
	"math/rand/v2"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// isStock says whether a Sandbox can be claimed: made for a set by its controller, ready, and nobody's. A label alone makes no
// stock, nor does an owner of another kind.
func isStock(sb *v1alpha1.Sandbox) bool {
	_, named := warmpool.ParseID(sb.Labels[v1alpha1.LabelSandboxID])
	return named && sb.Labels[v1alpha1.LabelPool] != "" && sb.Spec.Claim == nil && sb.DeletionTimestamp == nil &&
		sb.Status.SandboxIP != "" && isReady(sb) && setOf(sb) != ""
}

func isReady(sb *v1alpha1.Sandbox) bool {
	return meta.IsStatusConditionTrue(sb.Status.Conditions, v1alpha1.ConditionReady)
}

// setOf is the UID of the set that controls a Sandbox, empty when none does.
func setOf(sb *v1alpha1.Sandbox) types.UID {
	if ref := metav1.GetControllerOf(sb); ref != nil && isSet(*ref) {
		return ref.UID
	}
	return ""
}

func isSet(ref metav1.OwnerReference) bool {
	return ref.Kind == "SandboxSet" && ref.APIVersion == v1alpha1.GroupVersion.String()
}

// pile is the stock of one set and those who wait for it. Guarded by the shelf's lock. While somebody waits there is no stock that would do
// for him.
type pile struct {
	stock   []*entry
	waiters *list.List // of *waiter, the next one in front
}

func (p *pile) add(e *entry) {
	if e.pile != nil {
		return
	}
	e.pile, e.at = p, len(p.stock)
	p.stock = append(p.stock, e)
}

// remove takes e out by putting the last one in its place.
func (p *pile) remove(e *entry) {
	last := len(p.stock) - 1
	p.stock[e.at] = p.stock[last]
	p.stock[e.at].at = e.at
	p.stock[last] = nil
	p.stock = p.stock[:last]
	e.pile, e.at = nil, -1
}

// pick takes a random one out that is on one of the nodes. Random, so that replicas of the gateway seldom want the same.
func (p *pile) pick(nodes []string) *entry {
	n := len(p.stock)
	if n == 0 {
		return nil
	}
	for i, first := 0, rand.IntN(n); i < n; i++ {
		if e := p.stock[(first+i)%n]; isOn(e.sb, nodes) {
			p.remove(e)
			return e
		}
	}
	return nil
}

// isOn says whether a Sandbox is on one of the nodes; nil is all of them.
func isOn(sb *v1alpha1.Sandbox, nodes []string) bool {
	return nodes == nil || slices.Contains(nodes, sb.Status.PodInfo.NodeName)
}

// candidate is a piece of stock that its waiter alone tries to claim: as it was when it was taken from the shelf.
type candidate struct {
	entry *entry
	sb    *v1alpha1.Sandbox
}

// waiter stands in line for the stock of a set. Its owner calls want, receives from got, and leaves in the end.
type waiter struct {
	got chan candidate // holds one

	shelf   *shelf
	set     types.UID
	nodes   []string      // on which alone its stock may be; nil for all
	place   *list.Element // in the line
	waited  bool          // has been in line before: goes to the front
	waiting func(delta int)
}

// line makes a waiter for the stock of a set on the nodes, nil for all; waiting is told when the line gets longer or shorter.
func (s *shelf) line(set types.UID, nodes []string, waiting func(delta int)) *waiter {
	return &waiter{got: make(chan candidate, 1), shelf: s, set: set, nodes: nodes, waiting: waiting}
}

// want asks for one candidate, and says which in line it is: 0 when the candidate is there already. Those that only certain nodes will do for
// do not count: they have a sandbox made anyway.
func (w *waiter) want() int {
	w.shelf.mu.Lock()
	defer w.shelf.mu.Unlock()
	p := w.shelf.pileOf(w.set)
	if e := p.pick(w.nodes); e != nil {
		w.give(e)
		return 0
	}
	w.waiting(1)
	if w.waited {
		w.place = p.waiters.PushFront(w)
		return 1
	}
	w.waited = true
	w.place = p.waiters.PushBack(w)
	place := 1
	for e := w.place.Prev(); e != nil; e = e.Prev() {
		if e.Value.(*waiter).nodes == nil {
			place++
		}
	}
	return place
}

// give makes e the waiter's to try. Called with the lock held.
func (w *waiter) give(e *entry) {
	e.taking = true
	w.got <- candidate{e, e.sb}
}

// leave gives up the place in line, and what was given in the same moment.
func (w *waiter) leave() {
	w.shelf.mu.Lock()
	defer w.shelf.mu.Unlock()
	if w.place != nil {
		w.shelf.pileOf(w.set).waiters.Remove(w.place)
		w.place = nil
		w.waiting(-1)
	}
	select {
	case c := <-w.got:
		c.entry.taking = false
		w.shelf.offer(c.entry)
	default:
	}
}

// offer gives stock to whoever of those that it would do for waits longest, else puts it on the pile. Called with the lock held.
func (s *shelf) offer(e *entry) {
	if e.sb == nil || e.taking || e.pile != nil || !isStock(e.sb) || s.byID[e.id] != e { // an ID is handed out once
		return
	}
	p := s.pileOf(setOf(e.sb))
	for place := p.waiters.Front(); place != nil; place = place.Next() {
		if w, ok := place.Value.(*waiter); ok && isOn(e.sb, w.nodes) {
			p.waiters.Remove(place)
			w.place = nil
			w.waiting(-1)
			w.give(e)
			return
		}
	}
	p.add(e)
}

// back ends the try of a candidate that was not claimed. It is stock again unless refused says that the store has a newer state of
// it: then the informer will tell.
func (s *shelf) back(c candidate, refused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.entry.taking = false
	if refused && c.entry.sb == c.sb {
		return
	}
	s.offer(c.entry)
}

// holds says whether a candidate is as it was given out. The try of one that is not has ended.
func (s *shelf) holds(c candidate) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.entry.sb == c.sb {
		return true
	}
	c.entry.taking = false
	s.offer(c.entry)
	return false
}

// taken ends the try of a candidate that is the waiter's now.
func (s *shelf) taken(c candidate, sb *v1alpha1.Sandbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.entry.taking = false
	s.replace(sb, c.entry.seen && c.entry.sb != nil) // when it has ended meanwhile, nobody will tell of it again
}
