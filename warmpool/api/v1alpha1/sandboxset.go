package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// SandboxSet keeps a number of unclaimed sandboxes of one template ready. Its name is the template's name in the API.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:subresource:scale:specpath=.spec.replicas,statuspath=.status.replicas,selectorpath=.status.selector
// +kubebuilder:resource:path=sandboxsets,shortName={sbs},singular=sandboxset,categories={sandgate}
// +kubebuilder:storageversion
// +kubebuilder:printcolumn:name="Desired",type=integer,JSONPath=`.spec.replicas`,description="Unclaimed sandboxes to keep"
// +kubebuilder:printcolumn:name="Ready",type=integer,JSONPath=`.status.availableReplicas`,description="Unclaimed sandboxes that can be claimed now"
// +kubebuilder:printcolumn:name="Claimed",type=integer,JSONPath=`.status.claimedReplicas`,description="Sandboxes that callers hold"
// +kubebuilder:printcolumn:name="Updated",type=integer,JSONPath=`.status.updatedReplicas`,priority=1
// +kubebuilder:printcolumn:name="Revision",type=string,JSONPath=`.status.updateRevision`,priority=1
// +kubebuilder:printcolumn:name="Filling",type=string,JSONPath=`.status.conditions[?(@.type=="Filled")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type SandboxSet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec SandboxSetSpec `json:"spec"`
	// +optional
	Status SandboxSetStatus `json:"status,omitzero"`
}

// SandboxSetSpec is the desired state of a SandboxSet.
type SandboxSetSpec struct {
	// Replicas is the number of unused sandboxes to keep; claimed ones do not count. At least 0, default 0.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100000
	Replicas int32 `json:"replicas,omitempty"`
	// Runtimes asks for injected parts: "csi" for runtime mounts, "agent-runtime" for the in-sandbox daemon, any other name for
	// the key of the injection ConfigMap that bears it. A name that the ConfigMap lacks keeps the pool from being filled.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Runtimes []Runtime `json:"runtimes,omitempty"`
	// Template is the pod. Its first container is the sandbox.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	Template corev1.PodTemplateSpec `json:"template"`
	// PersistentContents is what survives a pause. It is kept and has no effect until pausing is supported.
	// +optional
	// +listType=atomic
	PersistentContents []PersistentContent `json:"persistentContents,omitempty"`
	// Volumes are mounted into every sandbox of the pool. A change of them replaces unclaimed sandboxes as a change of the template does.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	Volumes []PoolVolume `json:"volumes,omitempty"`
	// ScaleStrategy bounds how fast the pool is filled.
	// +optional
	ScaleStrategy ScaleStrategy `json:"scaleStrategy,omitzero"`
	// UpdateStrategy bounds how fast unclaimed sandboxes of an older template are replaced. Claimed ones never are.
	// +optional
	UpdateStrategy UpdateStrategy `json:"updateStrategy,omitzero"`
}

// Runtime names a key of the injection ConfigMap.
type Runtime struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	Name string `json:"name"`
}

// PersistentContent is a thing that can survive a pause.
// +kubebuilder:validation:Enum=ip;memory;filesystem
type PersistentContent string

// ScaleStrategy bounds how fast a pool is filled.
type ScaleStrategy struct {
	// MaxUnavailable is how many sandboxes may be in the making at once: a number, or a percentage of replicas, rounded up.
	// Default 100%.
	// +optional
	// +kubebuilder:validation:XIntOrString
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`
}

// UpdateStrategy bounds how fast stale stock is replaced.
type UpdateStrategy struct {
	// MaxUnavailable is how many of the pool's replicas may be missing because of an update: a number, or a percentage of replicas,
	// rounded down, but at least 1. Default 20%.
	// +optional
	// +kubebuilder:validation:XIntOrString
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`
}

// PoolVolume is a volume of every sandbox of a pool. Exactly one source is set. nfs, persistentVolumeClaim and hostPath are mounted by the
// kubelet beside the sandbox when its pod is made, and attached from there; a persistentVolume is mounted as if a request had named it.
// +kubebuilder:validation:XValidation:rule="[has(self.nfs),has(self.persistentVolumeClaim),has(self.hostPath),has(self.persistentVolume),has(self.ephemeral)].filter(x,x).size()==1",message="give exactly one of nfs, persistentVolumeClaim, hostPath, persistentVolume and ephemeral"
// +kubebuilder:validation:XValidation:rule="!has(self.mounts) || has(self.ephemeral)",message="mounts are further places of an ephemeral volume; other volumes have mountPath only"
type PoolVolume struct {
	// Name is the mount's ID in the API, and its place among the set's volumes. At most 49 characters.
	// +kubebuilder:validation:MaxLength=49
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// NFS is an export that the kubelet mounts.
	// +optional
	NFS *corev1.NFSVolumeSource `json:"nfs,omitempty"`
	// PersistentVolumeClaim is one in the set's namespace, whoever it belongs to: who writes the set may use it.
	// +optional
	PersistentVolumeClaim *corev1.PersistentVolumeClaimVolumeSource `json:"persistentVolumeClaim,omitempty"`
	// HostPath is a directory of the node. It is refused in the node's own ones, such as /etc and /var/lib/kubelet.
	// +optional
	HostPath *corev1.HostPathVolumeSource `json:"hostPath,omitempty"`
	// PersistentVolume keeps to the rules of its annotations. One that is for certain teams is mounted at Claim, not at Ready.
	// +optional
	PersistentVolume *PersistentVolumeSource `json:"persistentVolume,omitempty"`
	// Ephemeral is a volume in each sandbox's own memory, which its containers share and which ends with it. A directory at its path may
	// have entries, which the mount hides: the programs of the containers may have begun before it is mounted.
	// +optional
	Ephemeral *Ephemeral `json:"ephemeral,omitempty"`
	// MountPath is the absolute path in the sandbox, in its first container.
	// +kubebuilder:validation:Pattern=`^/`
	// +kubebuilder:validation:MaxLength=4096
	MountPath string `json:"mountPath"`
	// SubPath is a relative directory in the volume; ${SANDBOX_ID} and ${ACTOR_ID} stand for the sandbox's ID. Directories that are missing
	// are made with mode 0755 for the sandbox's user, unless the volume is read-only.
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	SubPath string `json:"subPath,omitempty"`
	// ReadOnly refuses writes. Default false.
	// +optional
	ReadOnly bool `json:"readOnly,omitempty"`
	// MountAt is when the volume is mounted: when the sandbox gets ready, or when it is claimed. Default Ready.
	// +optional
	// +kubebuilder:default=Ready
	// +kubebuilder:validation:Enum=Ready;Claim
	MountAt string `json:"mountAt,omitempty"`
	// Mounts are further places of an ephemeral volume, in the other containers above all. The mount's ID in the API is the volume's name
	// with a dot and the number of the place, from 1.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=63
	Mounts []PoolMount `json:"mounts,omitempty"`
}

// PoolMount is a further place of an ephemeral volume.
type PoolMount struct {
	// Container has it. The pod template's annotation sandgate.dev/mount-containers must name it, unless it is the first.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Container string `json:"container"`
	// MountPath is the absolute path in it.
	// +kubebuilder:validation:Pattern=`^/`
	// +kubebuilder:validation:MaxLength=4096
	MountPath string `json:"mountPath"`
	// ReadOnly refuses writes. Default false.
	// +optional
	ReadOnly bool `json:"readOnly,omitempty"`
}

// Times of PoolVolume.MountAt.
const (
	MountAtReady = "Ready"
	MountAtClaim = "Claim"
)

// PersistentVolumeSource names a PersistentVolume.
type PersistentVolumeSource struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// SandboxSetStatus is what is known of a pool.
type SandboxSetStatus struct {
	// ObservedGeneration is the generation that the rest speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Replicas counts unclaimed sandboxes, ready or in the making.
	// +optional
	Replicas int32 `json:"replicas"`
	// AvailableReplicas counts unclaimed sandboxes that can be claimed now.
	// +optional
	AvailableReplicas int32 `json:"availableReplicas"`
	// ClaimedReplicas counts sandboxes of this set that callers hold.
	// +optional
	ClaimedReplicas int32 `json:"claimedReplicas"`
	// UpdateRevision is the digest of what new sandboxes are made of: template, runtimes and the injection configuration.
	// +optional
	UpdateRevision string `json:"updateRevision,omitempty"`
	// UpdatedReplicas counts unclaimed sandboxes of UpdateRevision.
	// +optional
	UpdatedReplicas int32 `json:"updatedReplicas"`
	// Selector selects the pool's unclaimed sandboxes, for the scale subresource.
	// +optional
	Selector string `json:"selector,omitempty"`
	// Conditions: Filled says whether the pool is full, and why not; InjectionConfigured says whether the injection ConfigMap can
	// be used, and what is wrong with it otherwise.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Conditions of a SandboxSet.
const (
	ConditionFilled              = "Filled"
	ConditionInjectionConfigured = "InjectionConfigured"
)

// Reasons of a condition Filled that is False and may be True in a moment.
const (
	ReasonFilling       = "Filling"       // stock is in the making
	ReasonUpdating      = "Updating"      // stale stock is being replaced
	ReasonUnschedulable = "Unschedulable" // no node has room, until another sandbox ends or a node is added
)

// Passing says whether a condition Filled that is False for this reason is worth a wait of whoever finds no stock. With any other reason
// a claim is refused at once, with the condition's message.
func Passing(reason string) bool {
	return reason == ReasonFilling || reason == ReasonUpdating || reason == ReasonUnschedulable
}

// SandboxSetList is a list of SandboxSets.
//
// +kubebuilder:object:root=true
type SandboxSetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SandboxSet `json:"items"`
}
