package injection

import (
	"context"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

// KeptConfigMap is the name of the ConfigMap of the release namespace that the configuration in force is kept in.
const KeptConfigMap = "sandgate-injection-in-force"

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
	err := w.cfg.Live.Get(ctx, w.cfg.Kept, &cm)
	switch {
	case apierrors.IsNotFound(err):
		return w.cfg.Live.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.cfg.Kept.Namespace, Name: w.cfg.Kept.Name}, Data: data,
		})
	case err != nil || maps.Equal(cm.Data, data):
		return err
	}
	cm.Data = data
	return w.cfg.Live.Update(ctx, &cm)
}

// recall puts into force what was so when it was last kept.
func (w *Watch) recall(ctx context.Context) {
	var cm corev1.ConfigMap
	err := w.cfg.Live.Get(ctx, w.cfg.Kept, &cm)
	if err == nil {
		err = w.cfg.Current.Recall(cm.Data)
	}
	switch {
	case err == nil:
		w.cfg.Log.Warn("the injection configuration of an earlier start is in force", "configmap", w.cfg.Kept.String())
	case !apierrors.IsNotFound(err):
		w.cfg.Log.Error("the injection configuration of an earlier start cannot be used", "configmap", w.cfg.Kept.String(), "error", err)
	}
}
