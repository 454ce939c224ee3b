package kube

import (
	"cmp"
	"log/slog"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/template"
)

// sets are the SandboxSets of all pool namespaces. Names and aliases are one space of names over all of them: of two sets that
// claim one, the older has it.
type sets struct {
	log *slog.Logger

	mu     sync.RWMutex
	all    map[types.UID]*v1alpha1.SandboxSet
	named  map[string]*set // by name and alias
	pools  map[pool]*set
	listed []*set // those that have their own name
	said   map[string]bool
}

// set is a SandboxSet as callers see it. Not modified once it is made.
type set struct {
	*v1alpha1.SandboxSet
	template warmpool.Template
	aliases  []string // that are really its own
	faulty   bool     // the template cannot be used; its Reason says why
}

func newSets(log *slog.Logger) *sets {
	return &sets{
		log: log, all: map[types.UID]*v1alpha1.SandboxSet{}, named: map[string]*set{}, pools: map[pool]*set{}, said: map[string]bool{},
	}
}

func (s *sets) put(x *v1alpha1.SandboxSet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[x.UID] = x
	s.index()
}

func (s *sets) drop(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, uid)
	s.index()
}

// index gives the names away. There are few sets and they change seldom.
func (s *sets) index() {
	ordered := make([]*v1alpha1.SandboxSet, 0, len(s.all))
	for _, x := range s.all {
		ordered = append(ordered, x)
	}
	slices.SortFunc(ordered, func(a, b *v1alpha1.SandboxSet) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	s.named, s.pools, s.listed = map[string]*set{}, map[pool]*set{}, nil
	for _, x := range ordered {
		one := read(x)
		s.pools[pool{x.Namespace, x.Name}] = one
		if s.take(x.Name, one) {
			s.listed = append(s.listed, one)
		}
	}
	// Names go before aliases, whoever is older: an alias must not hide a set.
	for _, x := range ordered {
		one := s.pools[pool{x.Namespace, x.Name}]
		for _, alias := range template.Aliases(x) {
			if s.take(alias, one) {
				one.aliases = append(one.aliases, alias)
			}
		}
		one.template.Aliases = one.aliases
	}
	slices.SortFunc(s.listed, func(a, b *set) int { return cmp.Compare(a.Name, b.Name) })
}

// take gives a name to a set, unless it is given away already.
func (s *sets) take(name string, one *set) bool {
	has := s.named[name]
	if has == nil {
		s.named[name] = one
		return true
	}
	if has.UID != one.UID && !s.said[string(one.UID)+name] {
		s.said[string(one.UID)+name] = true
		s.log.Warn("two SandboxSets claim one template name; the older one has it", "name", name,
			"set", has.Namespace+"/"+has.Name, "without", one.Namespace+"/"+one.Name)
	}
	return false
}

// read is a SandboxSet as a template.
func read(x *v1alpha1.SandboxSet) *set {
	one := &set{SandboxSet: x}
	t, err := template.Of(x)
	if err != nil {
		t, one.faulty = warmpool.Template{Name: x.Name, Namespace: x.Namespace, Desired: int(x.Spec.Replicas), Reason: "its template cannot be used: " + err.Error()}, true
	}
	t.Reserved = append(slices.Clone(t.Reserved), "/.sandgate")
	t.CreatedAt, t.UpdatedAt = x.CreationTimestamp.Time, changed(x)
	if t.Reason == "" {
		t.Reason = failing(x)
	}
	one.template = t
	return one
}

// changed is when somebody last changed a set itself.
func changed(x *v1alpha1.SandboxSet) time.Time {
	at := x.CreationTimestamp.Time
	for _, f := range x.ManagedFields {
		if f.Subresource == "" && f.Time != nil && f.Time.After(at) {
			at = f.Time.Time
		}
	}
	return at
}

// failing says why a pool cannot be filled, empty when it can.
func failing(x *v1alpha1.SandboxSet) string {
	c := meta.FindStatusCondition(x.Status.Conditions, v1alpha1.ConditionFilled)
	if c == nil || c.Status != metav1.ConditionFalse || v1alpha1.Passing(c.Reason) {
		return ""
	}
	return cmp.Or(c.Message, c.Reason)
}

// refill is how many sandboxes the controller makes of a set at the same time when stock is missing.
func (s *set) refill() int {
	at := s.Spec.ScaleStrategy.MaxUnavailable
	if at == nil {
		return int(s.Spec.Replicas)
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(at, int(s.Spec.Replicas), true)
	if err != nil {
		return int(s.Spec.Replicas)
	}
	return min(max(n, 0), int(s.Spec.Replicas))
}

func (s *set) pool() pool { return pool{s.Namespace, s.Name} }

// find is the set of a template name or alias.
func (s *sets) find(name string) (*set, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if one := s.named[name]; one != nil {
		return one, nil
	}
	return nil, warmpool.Errorf(warmpool.NotFound, "template '%s' not found", name)
}

// of is the set that a sandbox was made for, nil when it is gone.
func (s *sets) of(p pool) *set {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.pools[p]
}

func (s *sets) list() []*set {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.listed)
}
