package kube

import (
	"container/list"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// shelf is every Sandbox that this replica knows, fed by the informer's events and by the answers to its own writes, of which
// the later one counts. It keeps what is asked for often as sets: by ID, by team, and stock by the set that owns it.
type shelf struct {
	mu       sync.Mutex // guards what follows and the entries
	byUID    map[types.UID]*entry
	byID     map[warmpool.ID]*entry
	teams    map[string]map[types.UID]*entry
	pools    map[pool]int // claimed sandboxes
	piles    map[types.UID]*pile
	released map[warmpool.ID]time.Time // when; not to be found any more, whatever the informer still says

	ready func(*v1alpha1.Sandbox) // called without the lock for what has become stock; may be nil
	now   func() time.Time
}

// pool names the set of a sandbox. It stays when the sandbox is claimed.
type pool struct{ namespace, name string }

// entry is one Sandbox. The object is never modified, but replaced.
type entry struct {
	sb      *v1alpha1.Sandbox
	id      warmpool.ID
	seen    bool      // by the informer, which will tell of its end
	since   time.Time // when it was put here
	taking  bool      // somebody tries to claim it: it is not stock meanwhile
	pile    *pile     // where it is stock
	at      int       // in pile.stock
	route   *way
	changed chan struct{}    // closed at the next change; nil when nobody waits
	noted   map[string]noted // what this replica has mounted and the status does not tell yet, by mount ID
}

func newShelf(now func() time.Time) *shelf {
	return &shelf{
		byUID: map[types.UID]*entry{}, byID: map[warmpool.ID]*entry{}, teams: map[string]map[types.UID]*entry{},
		pools: map[pool]int{}, piles: map[types.UID]*pile{}, released: map[warmpool.ID]time.Time{}, now: now,
	}
}

// put takes over what is known of a Sandbox; seen says that the informer knows it.
func (s *shelf) put(sb *v1alpha1.Sandbox, seen bool) {
	s.mu.Lock()
	stocked := s.replace(sb, seen)
	s.mu.Unlock()
	if stocked && s.ready != nil {
		s.ready(sb)
	}
}

// replace says whether the Sandbox has become stock. Called with the lock held.
func (s *shelf) replace(sb *v1alpha1.Sandbox, seen bool) bool {
	e := s.byUID[sb.UID]
	if e == nil {
		e = &entry{since: s.now(), at: -1}
	} else if !later(sb, e.sb) {
		e.seen = e.seen || seen
		return false
	}
	wasStock := e.sb != nil && isStock(e.sb)
	s.unlink(e)
	e.sb, e.seen = sb, e.seen || seen
	e.id, _ = warmpool.ParseID(sb.Labels[v1alpha1.LabelSandboxID])
	s.link(e)
	e.route.follow(sb)
	e.wake()
	if isStock(sb) && !e.taking {
		s.offer(e)
	}
	return isStock(sb) && !wasStock
}

// drop forgets a Sandbox that has ended.
func (s *shelf) drop(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byUID[uid]
	if e == nil {
		return
	}
	s.unlink(e)
	e.sb = nil
	e.route.end()
	e.wake()
	delete(s.released, e.id)
}

// link makes e found. Called with the lock held.
func (s *shelf) link(e *entry) {
	s.byUID[e.sb.UID] = e
	// Of two with the same ID somebody has made one up: it is the one that is not claimed, or the younger.
	if other := s.byID[e.id]; e.id != "" && (other == nil || earlier(e.sb, other.sb)) {
		s.byID[e.id] = e
	}
	if claim := e.sb.Spec.Claim; claim != nil {
		team := claim.Principal.Team
		if s.teams[team] == nil {
			s.teams[team] = map[types.UID]*entry{}
		}
		s.teams[team][e.sb.UID] = e
		s.pools[poolOf(e.sb)]++
	}
}

// unlink undoes link and takes e out of stock. Called with the lock held.
func (s *shelf) unlink(e *entry) {
	if e.sb == nil {
		return
	}
	delete(s.byUID, e.sb.UID)
	if s.byID[e.id] == e {
		delete(s.byID, e.id)
	}
	if claim := e.sb.Spec.Claim; claim != nil {
		team := claim.Principal.Team
		delete(s.teams[team], e.sb.UID)
		if len(s.teams[team]) == 0 {
			delete(s.teams, team)
		}
		if s.pools[poolOf(e.sb)]--; s.pools[poolOf(e.sb)] <= 0 {
			delete(s.pools, poolOf(e.sb))
		}
	}
	if e.pile != nil {
		e.pile.remove(e)
	}
}

// wake tells those who wait for a change of e. Called with the lock held.
func (e *entry) wake() {
	if e.changed != nil {
		close(e.changed)
		e.changed = nil
	}
}

// watch returns the Sandbox as it is, nil when it has ended, and a channel that is closed at its next change.
func (s *shelf) watch(uid types.UID) (*v1alpha1.Sandbox, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byUID[uid]
	if e == nil {
		return nil, nil
	}
	if e.changed == nil {
		e.changed = make(chan struct{})
	}
	return e.sb, e.changed
}

// find returns the Sandbox of an ID, nil when it is not known, and whether it was released here.
func (s *shelf) find(id warmpool.ID) (sb *v1alpha1.Sandbox, released bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.released[id]; ok {
		return nil, true
	}
	if e := s.byID[id]; e != nil {
		return e.sb, false
	}
	return nil, false
}

// release makes an ID not found from now on.
func (s *shelf) release(id warmpool.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.released[id] = s.now()
	if e := s.byID[id]; e != nil {
		e.route.end()
	}
}

// claimed returns the claimed Sandboxes of a team, of all when it is empty, without those that were released here.
func (s *shelf) claimed(team string) (out []*v1alpha1.Sandbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	collect := func(of map[types.UID]*entry) {
		for _, e := range of {
			if _, gone := s.released[e.id]; !gone && s.byID[e.id] == e {
				out = append(out, e.sb)
			}
		}
	}
	if team != "" {
		collect(s.teams[team])
		return out
	}
	for _, of := range s.teams {
		collect(of)
	}
	return out
}

// noted is a mount that this replica has made.
type noted struct {
	v1alpha1.Mount
	at   time.Time
	told v1alpha1.MountStatus // what the status said of it then
}

// note keeps that a mount was made, until the status says it.
func (s *shelf) note(uid types.UID, m v1alpha1.Mount, at time.Time) {
	s.change(uid, func(sb *v1alpha1.Sandbox, all map[string]noted) {
		n := noted{Mount: m, at: at}
		if i := slices.IndexFunc(sb.Status.Mounts, func(x v1alpha1.MountStatus) bool { return x.ID == m.ID }); i >= 0 {
			n.told = sb.Status.Mounts[i]
		}
		all[m.ID] = n
	})
}

// unnote forgets what note has kept.
func (s *shelf) unnote(uid types.UID, mountID string) {
	s.change(uid, func(_ *v1alpha1.Sandbox, all map[string]noted) { delete(all, mountID) })
}

func (s *shelf) change(uid types.UID, how func(*v1alpha1.Sandbox, map[string]noted)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byUID[uid]
	if e == nil {
		return
	}
	all := make(map[string]noted, len(e.noted)+1) // somebody may be reading the other one
	maps.Copy(all, e.noted)
	how(e.sb, all)
	e.noted = all
}

// notes are what note has kept.
func (s *shelf) notes(uid types.UID) map[string]noted {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.byUID[uid]; e != nil {
		return e.noted
	}
	return nil
}

// later says whether a is a newer state than b of the same object.
func later(a, b *v1alpha1.Sandbox) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err != nil || order > 0 // a store with other versions: what comes last counts
}

// earlier says whether a is the one of two with one ID that may bear it.
func earlier(a, b *v1alpha1.Sandbox) bool {
	if (a.Spec.Claim == nil) != (b.Spec.Claim == nil) {
		return a.Spec.Claim != nil
	}
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.UID < b.UID
}

func poolOf(sb *v1alpha1.Sandbox) pool { return pool{sb.Namespace, sb.Labels[v1alpha1.LabelPool]} }

// forget drops what only this replica has told of and the informer never has: objects that came and went between two lists of it,
// and releases that are long past. known asks the informer.
func (s *shelf) forget(before time.Time, known func(*v1alpha1.Sandbox) bool) {
	s.mu.Lock()
	var doubtful []*v1alpha1.Sandbox
	for _, e := range s.byUID {
		if !e.seen && e.since.Before(before) {
			doubtful = append(doubtful, e.sb)
		}
	}
	for id, at := range s.released {
		if at.Before(before) && s.byID[id] == nil {
			delete(s.released, id)
		}
	}
	s.mu.Unlock()
	for _, sb := range doubtful {
		if !known(sb) {
			s.drop(sb.UID)
		}
	}
}

// expire ends the ways to sandboxes that are past their deadline, whatever becomes of their objects.
func (s *shelf) expire(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.byUID {
		if e.route != nil && ended(e.sb, now) {
			e.route.end()
		}
	}
}

// counts are how many sandboxes of a set are ready as this replica sees it, and how many are claimed.
func (s *shelf) counts(set types.UID, p pool) (ready, claimed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pile := s.piles[set]; pile != nil {
		ready = len(pile.stock)
	}
	return ready, s.pools[p]
}

// pileOf is the stock of a set. Called with the lock held.
func (s *shelf) pileOf(set types.UID) *pile {
	p := s.piles[set]
	if p == nil {
		p = &pile{waiters: list.New()}
		s.piles[set] = p
	}
	return p
}
