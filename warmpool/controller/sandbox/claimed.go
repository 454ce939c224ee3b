package sandbox

import (
	"context"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// evictable tells the cluster autoscaler whether it may move a pod to empty its node.
const evictable = "cluster-autoscaler.kubernetes.io/safe-to-evict"

// protect marks the pod of a claimed sandbox: it is somebody's, and not to be moved.
func (p *pass) protect(ctx context.Context, pod *corev1.Pod) error {
	if p.sb.Spec.Claim == nil || pod.DeletionTimestamp != nil || pod.Labels[v1alpha1.LabelClaimed] == "true" && pod.Annotations[evictable] == "false" {
		return nil
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": pod.UID, "labels": map[string]string{v1alpha1.LabelClaimed: "true"}, "annotations": map[string]string{evictable: "false"},
	}})
	if err != nil {
		return err
	}
	return client.IgnoreNotFound(p.r.cfg.Client.Patch(ctx, pod, client.RawPatch(types.MergePatchType, body)))
}

// mark is what protect does, for a pod that is not made yet.
func mark(pod *corev1.Pod) {
	pod.Labels[v1alpha1.LabelClaimed] = "true"
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[evictable] = "false"
}
