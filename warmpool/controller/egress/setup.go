package egress

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// Setup gives the reconciler to a manager: sets, their NetworkPolicies and the PersistentVolumes that they have or name wake it.
func (r *Reconciler) Setup(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("egress").
		For(&v1alpha1.SandboxSet{}, builder.WithPredicates(predicate.Or(predicate.AnnotationChangedPredicate{}, predicate.GenerationChangedPredicate{}))).
		Owns(&networkingv1.NetworkPolicy{}).
		Watches(&corev1.PersistentVolume{}, handler.EnqueueRequestsFromMapFunc(r.naming)).
		Complete(r)
}

// naming are the sets that have or name a PersistentVolume.
func (r *Reconciler) naming(ctx context.Context, pv client.Object) (out []reconcile.Request) {
	var sets v1alpha1.SandboxSetList
	if err := r.cfg.Client.List(ctx, &sets); err != nil {
		r.cfg.Log.ErrorContext(ctx, "sets cannot be listed", "error", err)
		return nil
	}
	for i := range sets.Items {
		if names, _ := volumes(&sets.Items[i]); slices.Contains(names, pv.GetName()) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&sets.Items[i])})
		}
	}
	return out
}
