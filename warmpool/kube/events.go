package kube

import (
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// sandboxEvents keeps the shelf as the informer tells.
type sandboxEvents struct{ b *Backend }

// OnAdd implements ResourceEventHandler.
func (e sandboxEvents) OnAdd(obj any, _ bool) { e.put(obj) }

// OnUpdate implements ResourceEventHandler. An object that was deleted and made again under its name is another one.
func (e sandboxEvents) OnUpdate(before, obj any) {
	if old, ok := before.(*v1alpha1.Sandbox); ok {
		if sb, ok := obj.(*v1alpha1.Sandbox); ok && sb.UID != old.UID {
			e.b.shelf.drop(old.UID)
		}
	}
	e.put(obj)
}

// OnDelete implements ResourceEventHandler.
func (e sandboxEvents) OnDelete(obj any) {
	if gone, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	if sb, ok := obj.(*v1alpha1.Sandbox); ok {
		e.b.shelf.drop(sb.UID)
		e.b.cfg.Fitter.Drop(sb)
	}
}

func (e sandboxEvents) put(obj any) {
	sb, ok := obj.(*v1alpha1.Sandbox)
	if !ok {
		return
	}
	e.b.shelf.put(sb, true)
	if sb.Spec.Claim != nil && !e.b.starts.has(idOf(sb)) {
		e.b.visits.unless(sb.UID, func() { e.b.cfg.Fitter.Drop(sb) }) // somebody else's: the connection that was made ahead is of no use
	}
}

// setEvents keeps the sets as the informer tells.
type setEvents struct{ sets *sets }

// OnAdd implements ResourceEventHandler.
func (e setEvents) OnAdd(obj any, _ bool) { e.put(obj) }

// OnUpdate implements ResourceEventHandler.
func (e setEvents) OnUpdate(before, obj any) {
	if old, ok := before.(*v1alpha1.SandboxSet); ok {
		if set, ok := obj.(*v1alpha1.SandboxSet); ok && set.UID != old.UID {
			e.sets.drop(old.UID)
		}
	}
	e.put(obj)
}

// OnDelete implements ResourceEventHandler.
func (e setEvents) OnDelete(obj any) {
	if gone, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	if set, ok := obj.(*v1alpha1.SandboxSet); ok {
		e.sets.drop(set.UID)
	}
}

func (e setEvents) put(obj any) {
	if set, ok := obj.(*v1alpha1.SandboxSet); ok {
		e.sets.put(set)
	}
}
