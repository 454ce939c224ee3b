package injection

import (
	"context"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// KeptConfigMap is the name of the ConfigMap that the configuration in force is kept in, beside the one that it was read from: nobody who may
// not write that one may write this one.
const KeptConfigMap = "sandgate-injection-in-force"

var kept = client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: KeptConfigMap}

// keepPause is between two tries to keep a configuration.
const keepPause = 5 * time.Second

// keepAll keeps every configuration that comes into force, on the replica that is elected, until ctx ends.
func (w *Watch) keepAll(ctx context.Context) {
	select {
	case <-w.cfg.Elected:
	case <-ctx.Done():
		return
	}
	for {
		select {
		case <-w.good:
		case <-ctx.Done():
			return
		}
		_ = wait.PollUntilContextCancel(ctx, keepPause, true, func(ctx context.Context) (bool, error) { // ends with ctx
			err := w.keep(ctx)
			if err != nil && ctx.Err() == nil {
				w.cfg.Log.Warn("the injection configuration in force cannot be kept; a controller that starts anew would not have it", "error", err)
			}
			return err == nil, nil
		})
	}
}

// keep writes the configuration in force down, unless that has been done.
func (w *Watch) keep(ctx context.Context) error {
	data := w.cfg.Current.Data()
	var cm corev1.ConfigMap
	err := w.cfg.Live.Get(ctx, kept, &cm)
	switch {
	case apierrors.IsNotFound(err):
		return w.cfg.Live.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: kept.Namespace, Name: kept.Name}, Data: data,
		})
	case err != nil || maps.Equal(cm.Data, data):
		return err
	}
	cm.Data = data
	return w.cfg.Live.Update(ctx, &cm)
}

// recallTime is for how long at most recall asks: what the ConfigMap says next has to wait for it.
const recallTime = time.Minute

// recall puts into force what was so when it was last kept.
func (w *Watch) recall(ctx context.Context) {
	var cm corev1.ConfigMap
	var err error
	_ = wait.PollUntilContextTimeout(ctx, keepPause, recallTime, true, func(ctx context.Context) (bool, error) { // nobody else looks until the ConfigMap changes
		err = w.cfg.Live.Get(ctx, kept, &cm)
		return err == nil || apierrors.IsNotFound(err) || apierrors.IsForbidden(err), nil
	})
	if err == nil {
		err = w.cfg.Current.Recall(cm.Data)
	}
	switch {
	case err == nil:
		w.cfg.Log.Warn("the injection configuration of an earlier start is in force", "configmap", kept.String())
	case !apierrors.IsNotFound(err):
		w.cfg.Log.Error("the injection configuration of an earlier start cannot be used", "configmap", kept.String(), "error", err)
	}
}
