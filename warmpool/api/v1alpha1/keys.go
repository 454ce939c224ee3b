// Package v1alpha1 holds the API types of group agents.kruise.io and every label, annotation and metadata key there is.
package v1alpha1

// Group and Version of the API.
const (
	Group   = "agents.kruise.io"
	Version = "v1alpha1"
)

// Labels and annotations of objects.
const (
	LabelSandboxID = "agents.kruise.io/sandbox-id"
	// AnnotationAliases of a SandboxSet: comma-separated further template names.
	AnnotationAliases = "sandgate.dev/aliases"
	// AnnotationNetwork of a SandboxSet in local mode: "none" (default) or "pasta".
	AnnotationNetwork = "sandgate.dev/network"
	// AnnotationTeams of a PersistentVolume: comma-separated teams that may mount it; required when it has a claimRef.
	AnnotationTeams = "sandgate.dev/teams"
)

// Keys of the create request's metadata.
const (
	MetadataVolumeName   = "e2b.agents.kruise.io/csi-volume-name"
	MetadataMountPoint   = "e2b.agents.kruise.io/csi-mount-point"
	MetadataSubPath      = "e2b.agents.kruise.io/csi-subpath"
	MetadataVolumeConfig = "e2b.agents.kruise.io/csi-volume-config"
)

// Runtime names with a meaning of their own.
const (
	RuntimeCSI   = "csi"
	RuntimeAgent = "agent-runtime"
)

// SystemNamespace is the only namespace whose Secrets volumes may name.
const SystemNamespace = "sandbox-system"
