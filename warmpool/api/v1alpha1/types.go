package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SandboxSet keeps a number of unclaimed sandboxes of one template ready. Its name is the template's name in the API.
type SandboxSet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec SandboxSetSpec `json:"spec"`
}

// SandboxSetSpec is the desired state of a SandboxSet.
type SandboxSetSpec struct {
	// Replicas is the number of unused sandboxes to keep; claimed ones do not count. At least 0, default 0.
	Replicas int32 `json:"replicas,omitempty"`
	// Runtimes asks for injected parts: "csi" for runtime mounts, "agent-runtime" for the in-sandbox daemon.
	Runtimes []Runtime `json:"runtimes,omitempty"`
	// Template is the pod. Its first container is the sandbox.
	Template corev1.PodTemplateSpec `json:"template"`
}

// Runtime names a key of the injection ConfigMap.
type Runtime struct {
	Name string `json:"name"`
}
