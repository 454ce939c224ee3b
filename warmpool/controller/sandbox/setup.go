package sandbox

import (
	"context"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// workers is how many sandboxes are reconciled at the same time. None of them waits for a sandbox, only for the API server.
const workers = 16

// Setup gives the reconciler to a manager: sandboxes, their pods and done chores wake it.
func (r *Reconciler) Setup(mgr ctrl.Manager) error {
	if err := mgr.Add(manager.RunnableFunc(r.chores.Start)); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("sandbox").
		For(&v1alpha1.Sandbox{}, builder.WithPredicates(predicate.Funcs{UpdateFunc: matters})).
		Owns(&corev1.Pod{}, builder.WithPredicates(predicate.Funcs{DeleteFunc: func(e event.DeleteEvent) bool {
			if pod, ok := e.Object.(*corev1.Pod); ok {
				r.chores.bury(pod)
			}
			return true
		}})).
		WatchesRawSource(source.Func(r.done)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](100*time.Millisecond, 30*time.Second),
		}).
		Complete(r)
}

// done wakes sandboxes whose chores are done.
func (r *Reconciler) done(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	go func() { // ends with ctx, as the queue does
		for {
			select {
			case key := <-r.chores.wake:
				queue.Add(reconcile.Request{NamespacedName: key})
			case <-ctx.Done():
				return
			}
		}
	}()
	return nil
}

// matters says whether a change of a Sandbox is more than our own status.
func matters(e event.UpdateEvent) bool {
	a, b := e.ObjectOld, e.ObjectNew
	return a.GetUID() != b.GetUID() || a.GetGeneration() != b.GetGeneration() || !maps.Equal(a.GetLabels(), b.GetLabels()) ||
		!slices.Equal(a.GetFinalizers(), b.GetFinalizers()) || len(a.GetOwnerReferences()) != len(b.GetOwnerReferences()) ||
		a.GetResourceVersion() == b.GetResourceVersion() // a resync
}
