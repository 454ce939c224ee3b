package sandboxset

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// indexPool finds the sandboxes of a pool in the cache, claimed ones as well.
const indexPool = "sandgate.pool"

// Setup gives the reconciler to a manager: sets, their sandboxes and the injection configuration wake it.
func (r *Reconciler) Setup(ctx context.Context, mgr ctrl.Manager) error {
	index := func(o client.Object) []string { return []string{o.GetLabels()[v1alpha1.LabelPool]} }
	if err := mgr.GetFieldIndexer().IndexField(ctx, &v1alpha1.Sandbox{}, indexPool, index); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("sandboxset").
		For(&v1alpha1.SandboxSet{}).
		Watches(&v1alpha1.Sandbox{}, members(), predicatesOf(matters)).
		WatchesRawSource(r.injectionChanges()).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: 4,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](100*time.Millisecond, 30*time.Second),
		}).
		Complete(r)
}

// gather is how long the changes of a pool's sandboxes are gathered before its set is looked at: in a burst there are hundreds a second.
const gather = 50 * time.Millisecond

// members wakes the set of a sandbox's pool.
func members() handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	wake := func(q queue, o client.Object) {
		if name := o.GetLabels()[v1alpha1.LabelPool]; name != "" {
			q.AddAfter(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: name}}, gather)
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { wake(q, e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) {
			wake(q, e.ObjectNew)
			if e.ObjectOld.GetLabels()[v1alpha1.LabelPool] != e.ObjectNew.GetLabels()[v1alpha1.LabelPool] {
				wake(q, e.ObjectOld)
			}
		},
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { wake(q, e.Object) },
	}
}

// injectionChanges wakes every set when the injection configuration is another one.
func (r *Reconciler) injectionChanges() source.Source {
	return source.Func(func(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		r.cfg.Injection.Subscribe(func() {
			var sets v1alpha1.SandboxSetList
			if ctx.Err() != nil || r.cfg.Client.List(ctx, &sets) != nil { // the cache has not started: it will tell of every set
				return
			}
			for i := range sets.Items {
				queue.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&sets.Items[i])})
			}
		})
		return nil
	})
}

// matters says whether a change of a sandbox is one for its pool.
func matters(e event.UpdateEvent) bool {
	before, ok := e.ObjectOld.(*v1alpha1.Sandbox)
	after, is := e.ObjectNew.(*v1alpha1.Sandbox)
	if !ok || !is {
		return true
	}
	return before.UID != after.UID || (before.Spec.Claim == nil) != (after.Spec.Claim == nil) ||
		(before.DeletionTimestamp == nil) != (after.DeletionTimestamp == nil) || failed(before) != failed(after) ||
		len(before.OwnerReferences) != len(after.OwnerReferences) || readiness(before) != readiness(after)
}

func readiness(sb *v1alpha1.Sandbox) string {
	if c := meta.FindStatusCondition(sb.Status.Conditions, v1alpha1.ConditionReady); c != nil {
		return string(c.Status) + c.Reason + c.Message
	}
	return ""
}

func predicatesOf(f func(event.UpdateEvent) bool) builder.WatchesOption {
	return builder.WithPredicates(predicate.Funcs{UpdateFunc: f})
}
