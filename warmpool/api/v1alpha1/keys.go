package v1alpha1

import "strings"

// Group and Version of the API.
const (
	Group   = "agents.kruise.io"
	Version = "v1alpha1"
)

// Labels of objects.
const (
	// LabelSandboxID of a Sandbox and its pod is the sandbox's ID in the API: "i" and 19 characters [a-z0-9], given once.
	LabelSandboxID = "agents.kruise.io/sandbox-id"
	// LabelPool of a Sandbox and its pod is the name of the SandboxSet that it was made for; it stays when it is claimed.
	LabelPool = "agents.kruise.io/sandbox-pool"
	// LabelTemplate is LabelPool under the name that openkruise/agents gives it.
	LabelTemplate = "agents.kruise.io/sandbox-template"
	// LabelClaimed of a Sandbox is "true" from its claim on.
	LabelClaimed = "agents.kruise.io/sandbox-claimed"
	// LabelIdempotency of a Sandbox is the digest of the principal and Idempotency-Key of the request that claimed it.
	LabelIdempotency = "sandgate.dev/idempotency"
	// LabelRevision of a Sandbox is the revision of its set that it was made from.
	LabelRevision = "sandgate.dev/revision"
)

// Annotations of objects.
const (
	// AnnotationAliases of a SandboxSet: comma-separated further template names.
	AnnotationAliases = "sandgate.dev/aliases"
	// AnnotationNetwork of a SandboxSet in local mode: "none" (default) or "pasta".
	AnnotationNetwork = "sandgate.dev/network"
	// AnnotationEgressVolumes of a SandboxSet: comma-separated PersistentVolumes whose servers its sandboxes' pods may reach, beside those of
	// its own volumes; the controller keeps a NetworkPolicy for them.
	AnnotationEgressVolumes = "sandgate.dev/egress-volumes"
	// AnnotationTeams of a PersistentVolume, or of the PersistentVolumeClaim by which it is named: comma-separated teams that may mount it;
	// required when it has a claimRef.
	AnnotationTeams = "sandgate.dev/teams"
	// AnnotationKeys, likewise: comma-separated public IDs of API keys that may mount it, beside the teams.
	AnnotationKeys = "sandgate.dev/keys"
	// AnnotationSubPath of a PersistentVolume: the directory that every mount is confined to, such as tenants/${TEAM}; ${KEY} is the API
	// key's public ID. Sub paths of requests lie in it.
	AnnotationSubPath = "sandgate.dev/sub-path"
	// AnnotationReadOnly of a PersistentVolume: "true" makes every mount of it read-only.
	AnnotationReadOnly = "sandgate.dev/read-only"
	// AnnotationTargets of a PersistentVolume: comma-separated absolute paths of sandboxes; it is mounted at or below one of them.
	AnnotationTargets = "sandgate.dev/targets"
	// AnnotationNodeAffinity of a PersistentVolume: "ignore" says that every node has it, whatever its nodeAffinity says.
	AnnotationNodeAffinity = "sandgate.dev/node-affinity"
	// AnnotationRuntimes of a pod that nobody here makes: comma-separated runtimes that the admission webhook injects.
	AnnotationRuntimes = "sandgate.dev/inject-runtimes"
	// AnnotationAgentSecret of a pod with AnnotationRuntimes: the Secret, beside it, with the certificate of its agent.
	AnnotationAgentSecret = "sandgate.dev/agent-secret"
	// AnnotationContainers of a pod template: comma-separated containers beside the first one that volumes can be mounted into; "*" is all.
	AnnotationContainers = "sandgate.dev/mount-containers"
)

// FinalizerMounts of a Sandbox lets its volumes be flushed and detached before its pod goes.
const FinalizerMounts = "sandgate.dev/mounts"

// Keys of the create request's metadata.
const (
	MetadataVolumeName   = "e2b.agents.kruise.io/csi-volume-name"
	MetadataClaimName    = "e2b.agents.kruise.io/csi-pvc-name"
	MetadataMountPoint   = "e2b.agents.kruise.io/csi-mount-point"
	MetadataSubPath      = "e2b.agents.kruise.io/csi-subpath"
	MetadataVolumeConfig = "e2b.agents.kruise.io/csi-volume-config"
	// MetadataEphemeral is ours: volumes in the sandbox's own memory.
	MetadataEphemeral = "sandgate.dev/ephemeral-volumes"
)

// Runtime names with a meaning of their own.
const (
	RuntimeCSI   = "csi"
	RuntimeAgent = "agent-runtime"
)

// MountsVolumes says whether a runtime brings an agent that mounts volumes: csi, and csi-NAME for one on the image of a CSI driver. A pod
// has one agent, and a template one of them.
func MountsVolumes(runtime string) bool {
	return runtime == RuntimeCSI || strings.HasPrefix(runtime, RuntimeCSI+"-")
}

// SystemNamespace is the only namespace whose Secrets volumes may name, and where the injection ConfigMap is.
const SystemNamespace = "sandbox-system"

// InjectionConfigMap is the name of the ConfigMap whose keys are runtimes.
const InjectionConfigMap = "sandbox-injection-config"

// Ports of a sandbox's pod that are not its owner's.
const (
	// EnvdPort is where the in-sandbox daemon listens; it is part of E2B's wire.
	EnvdPort = 49983
	// AgentPort is where the agent listens for publishes.
	AgentPort = 49990
)
