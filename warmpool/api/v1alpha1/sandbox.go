package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Sandbox is one sandbox: stock of a SandboxSet until it is claimed, its claimant's from then on. A Sandbox that somebody makes
// himself is never stock; the team in its spec.claim, if any, reaches it over the API.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=sandboxes,shortName={sbx},singular=sandbox,categories={sandgate}
// +kubebuilder:storageversion
// +kubebuilder:printcolumn:name="ID",type=string,JSONPath=`.metadata.labels.agents\.kruise\.io/sandbox-id`
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.metadata.labels.agents\.kruise\.io/sandbox-pool`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Team",type=string,JSONPath=`.spec.claim.principal.team`
// +kubebuilder:printcolumn:name="Mounts",type=string,JSONPath=`.status.mountSummary`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.status.podInfo.nodeName`
// +kubebuilder:printcolumn:name="Deadline",type=string,JSONPath=`.spec.shutdownTime`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Sandbox struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec SandboxSpec `json:"spec"`
	// +optional
	Status SandboxStatus `json:"status,omitzero"`
}

// SandboxSpec is the desired state of a Sandbox.
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.claim) || has(self.claim)",message="a claim is for good: delete the Sandbox instead of taking its claim away"
type SandboxSpec struct {
	// Runtimes asks for injected parts, as in a SandboxSet. They are injected when the pod is made; later edits have no effect.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Runtimes []Runtime `json:"runtimes,omitempty"`
	// Template is the pod. Its first container is the sandbox.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	Template *corev1.PodTemplateSpec `json:"template,omitempty"`
	// TemplateRef is kept and not supported: a Sandbox that has it fails with a reason.
	// +optional
	TemplateRef *TemplateRef `json:"templateRef,omitempty"`
	// Paused is kept and has no effect until pausing is supported.
	// +optional
	Paused bool `json:"paused,omitempty"`
	// PersistentContents is kept and has no effect until pausing is supported.
	// +optional
	// +listType=atomic
	PersistentContents []PersistentContent `json:"persistentContents,omitempty"`
	// ShutdownTime is the deadline at which the sandbox is deleted. None for a sandbox that ends only when somebody deletes it.
	// +optional
	ShutdownTime *metav1.Time `json:"shutdownTime,omitempty"`
	// PauseTime is kept and has no effect until pausing is supported.
	// +optional
	PauseTime *metav1.Time `json:"pauseTime,omitempty"`
	// VolumeClaimTemplates is kept and not supported: a Sandbox that has any fails with a reason.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	VolumeClaimTemplates []corev1.PersistentVolumeClaim `json:"volumeClaimTemplates,omitempty"`
	// Volumes are those of the set, from which spec.mounts of kind PoolVolume are mounted. The pod is made with them; later edits have no
	// effect.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	Volumes []PoolVolume `json:"volumes,omitempty"`
	// Mounts are the volumes that are mounted into the running sandbox. They may be edited: what is added is mounted, what is taken
	// out is unmounted. Each passes the same rules as in a create request, under the team of spec.claim.
	// +optional
	// +listType=map
	// +listMapKey=id
	// +kubebuilder:validation:MaxItems=64
	Mounts []Mount `json:"mounts,omitempty"`
	// Claim is whose the sandbox is; none for stock. It is written once.
	// +optional
	Claim *Claim `json:"claim,omitempty"`
}

// TemplateRef names a SandboxTemplate.
type TemplateRef struct {
	Name string `json:"name"`
	// +optional
	Kind string `json:"kind,omitempty"`
	// +optional
	APIVersion string `json:"apiVersion,omitempty"`
}

// Mount is a volume at a path of a sandbox.
type Mount struct {
	// ID names the mount in the API.
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9._-]{1,63}$`
	ID string `json:"id"`
	// Kind is what volume is the name of: a PersistentVolume, which is the default, a PersistentVolumeClaim in the Sandbox's namespace, or a
	// PoolVolume of spec.volumes.
	// +optional
	// +kubebuilder:validation:Enum=PersistentVolume;PersistentVolumeClaim;PoolVolume
	Kind string `json:"kind,omitempty"`
	// Volume is the name of the volume; with ephemeral, that of an ephemeral volume.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Volume string `json:"volume"`
	// Path is the absolute path in the sandbox.
	// +kubebuilder:validation:Pattern=`^/`
	// +kubebuilder:validation:MaxLength=4096
	Path string `json:"path"`
	// SubPath is a relative directory in the volume, default its root.
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	SubPath string `json:"subPath,omitempty"`
	// ReadOnly refuses writes. Default false; the volume may be read-only all the same.
	// +optional
	ReadOnly bool `json:"readOnly,omitempty"`
	// Container gets the mount, default the first one.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Container string `json:"container,omitempty"`
	// AllowNonEmpty accepts a directory at path that has entries; the mount hides them. Default false.
	// +optional
	AllowNonEmpty bool `json:"allowNonEmpty,omitempty"`
	// Ephemeral makes volume the name of a volume in the sandbox's own memory, which all mounts of that name share.
	// +optional
	Ephemeral *Ephemeral `json:"ephemeral,omitempty"`
	// RequestedAt is when a request over the API asked for the mount, which the request makes then; none for one that somebody adds here.
	// +optional
	RequestedAt *metav1.MicroTime `json:"requestedAt,omitempty"`
}

// Ephemeral is a volume in a sandbox's memory, which ends with the sandbox.
type Ephemeral struct {
	// Size is how much it holds, at least 4Ki. What is in it counts as memory of the container that wrote it, and must fit into that
	// container's limit.
	Size resource.Quantity `json:"size"`
	// Inodes is how many files and directories it holds. Default one for each 16Ki of size, at least 1024.
	// +optional
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=1048576
	Inodes int64 `json:"inodes,omitempty"`
}

// Principal is who asked.
type Principal struct {
	// Team owns the sandbox.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Team string `json:"team"`
	// Key is the public ID of the API key, never the key.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}

// Claim is whose a sandbox is. It is written together with the mounts and the deadline in one write.
// +kubebuilder:validation:XValidation:rule="self.principal == oldSelf.principal && self.nonce == oldSelf.nonce",message="principal and nonce of a claim cannot be changed"
type Claim struct {
	Principal Principal `json:"principal"`
	// Nonce makes the access token of this claim different from every other one's. It opens nothing without the gateway's key.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Nonce string `json:"nonce"`
	// KeyID names the gateway's key that the token is made with and SealedEnv is sealed with.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	KeyID string `json:"keyID,omitempty"`
	// Time is when the sandbox was claimed.
	Time metav1.MicroTime `json:"time"`
	// Metadata is the caller's, as it is listed and filtered by.
	// +optional
	// +kubebuilder:validation:MaxProperties=512
	Metadata map[string]string `json:"metadata,omitempty"`
	// SealedEnv is the caller's environment, encrypted, so that a container that restarts can be given it again.
	// +optional
	SealedEnv []byte `json:"sealedEnv,omitempty"`
	// Timeout is what the caller asked for, in seconds. The deadline itself is spec.shutdownTime.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Timeout int64 `json:"timeout,omitempty"`
	// OnTimeout is what happens at the deadline. Default Delete, the only one supported.
	// +optional
	// +kubebuilder:validation:Enum=Delete
	OnTimeout string `json:"onTimeout,omitempty"`
	// Request is the ID of the create request, as in the gateway's log.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Request string `json:"request,omitempty"`
}

// SandboxPhase is where the sandbox's pod is in its life.
// +kubebuilder:validation:Enum=Pending;Running;Paused;Resuming;Upgrading;Succeeded;Failed;Recycling;Terminating
type SandboxPhase string

// The phases that are in use here; the others are known for objects written elsewhere.
const (
	PhasePending     SandboxPhase = "Pending"
	PhaseRunning     SandboxPhase = "Running"
	PhaseSucceeded   SandboxPhase = "Succeeded" // its containers have ended by themselves
	PhaseFailed      SandboxPhase = "Failed"
	PhaseTerminating SandboxPhase = "Terminating"
)

// SandboxStatus is what is known of a sandbox.
type SandboxStatus struct {
	// ObservedGeneration is the generation that the rest speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Phase is the pod's.
	// +optional
	Phase SandboxPhase `json:"phase,omitempty"`
	// State is the sandbox's as the API has it: creating, available, running, failed, terminating.
	// +optional
	State string `json:"state,omitempty"`
	// Message says why the sandbox failed or cannot be made, for its owner to read.
	// +optional
	Message string `json:"message,omitempty"`
	// PodInfo is the pod's.
	// +optional
	PodInfo PodInfo `json:"podInfo,omitzero"`
	// SandboxIP is the pod's address.
	// +optional
	SandboxIP string `json:"sandboxIp,omitempty"`
	// StartedContainer is the runtime's ID of the container that was last fitted out. Another one in the pod means that the container
	// has restarted: its daemon and its volumes are fitted out again.
	// +optional
	StartedContainer string `json:"startedContainer,omitempty"`
	// IdentityRenewal is when the certificate of the pod's agent is renewed next.
	// +optional
	IdentityRenewal *metav1.Time `json:"identityRenewal,omitempty"`
	// Mounts is what is known of each of spec.mounts, and of those that are still being taken away.
	// +optional
	// +listType=map
	// +listMapKey=id
	Mounts []MountStatus `json:"mounts,omitempty"`
	// MountSummary is "mounted/asked", for lists; empty when nothing is asked.
	// +optional
	MountSummary string `json:"mountSummary,omitempty"`
	// Conditions: Ready says whether the sandbox can be claimed or used now.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ConditionReady of a Sandbox says whether it can be claimed or used now.
const ConditionReady = "Ready"

// ReasonStarting of a condition Ready that is False: the sandbox is in the making and nothing is wrong with it. Every other reason says
// what is.
const ReasonStarting = "Starting"

// ReasonNodeLost of a condition Ready that is False: the sandbox's node does not answer.
const ReasonNodeLost = "NodeLost"

// PodInfo is what others need of a sandbox's pod.
type PodInfo struct {
	// +optional
	PodIP string `json:"podIP,omitempty"`
	// +optional
	PodUID string `json:"podUID,omitempty"`
	// +optional
	NodeName string `json:"nodeName,omitempty"`
	// +optional
	Labels map[string]string `json:"labels,omitempty"`
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
}

// MountStatus is what is known of one mount.
type MountStatus struct {
	// ID is the mount's.
	ID string `json:"id"`
	// Source is the PersistentVolume, "pvc/NAME", "pool/NAME" or "ephemeral/NAME", with the sub-path behind a colon where there is one.
	// +optional
	Source string `json:"source,omitempty"`
	// VolumeHandle is the CSI handle of the volume, by which it is unmounted when the PersistentVolume is gone.
	// +optional
	VolumeHandle string `json:"volumeHandle,omitempty"`
	// Path is the absolute path in the sandbox.
	// +optional
	Path string `json:"path,omitempty"`
	// +optional
	Container string `json:"container,omitempty"`
	// Driver mounts the volume: a CSI driver's name.
	// +optional
	Driver string `json:"driver,omitempty"`
	// ReadOnly is as it was mounted.
	// +optional
	ReadOnly bool `json:"readOnly,omitempty"`
	// +kubebuilder:validation:Enum=Pending;Mounted;Failed
	Phase string `json:"phase"`
	// Verdict is what the last look has shown: live and slow ones are Mounted, hung and dead ones Failed. Empty before the volume is mounted,
	// and for one that never was.
	// +optional
	// +kubebuilder:validation:Enum=live;slow;hung;dead
	Verdict string `json:"verdict,omitempty"`
	// Message says why the mount failed, or that it is slow or was healed.
	// +optional
	Message string `json:"message,omitempty"`
	// +optional
	MountedAt *metav1.Time `json:"mountedAt,omitempty"`
}

// SandboxList is a list of Sandboxes.
//
// +kubebuilder:object:root=true
type SandboxList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Sandbox `json:"items"`
}
