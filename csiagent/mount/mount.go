// Package mount holds the nouns of a volume mount: what was asked (Spec), what it resolved to (Mount), and the rules that
// need nothing but those values (Parse, Policy). It does not touch the file system and knows no Kubernetes object.
package mount

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
)

// Spec says which volume a caller wants at which path of a sandbox. Made by Parse; it never holds a secret.
type Spec struct {
	// ID names the mount in the API (`mountID`). Parse derives one from volume, container and target when it is empty.
	ID string `json:"id"`
	// Kind says what Volume is the name of, empty for a PersistentVolume.
	Kind Kind `json:"kind,omitempty"`
	// Volume is the name of the volume.
	Volume string `json:"volume"`
	// SubPath is a relative directory inside the volume; empty means the volume's root.
	SubPath string `json:"subPath,omitempty"`
	// Target is the absolute, normalised path in the sandbox.
	Target string `json:"target"`
	// ReadOnly asks for a mount that refuses writes; the volume itself may be read-only too.
	ReadOnly bool `json:"readOnly,omitempty"`
	// Container is the container of the sandbox that gets the mount; empty means the main one.
	Container string `json:"container,omitempty"`
	// AllowNonEmpty accepts a target directory that has entries, which the mount hides. It is a permission, and no part of what the
	// mount is.
	AllowNonEmpty bool `json:"allowNonEmpty,omitempty"`
	// Ephemeral makes Volume the name of a volume in the sandbox's own memory, which all mounts of that name in the sandbox share,
	// instead of a PersistentVolume. The zero value is none.
	Ephemeral Ephemeral `json:"ephemeral,omitzero"`
}

// Kind is what the name of a Spec's volume is the name of.
type Kind string

// The kinds beside a PersistentVolume, which is the empty one.
const (
	KindClaim Kind = "PersistentVolumeClaim" // one in the namespace of the sandbox's pool
	KindPool  Kind = "PoolVolume"            // a volume that the sandbox has of its pool
)

// Ephemeral is the size of a volume in a sandbox's memory.
type Ephemeral struct {
	// Size is in bytes.
	Size int64 `json:"size"`
	// Inodes is how many files and directories it may hold; 0 leaves it to the driver, by the size.
	Inodes int64 `json:"inodes,omitempty"`
}

// IsEphemeral says whether the volume is one of the sandbox's memory.
func (s Spec) IsEphemeral() bool { return s.Ephemeral != Ephemeral{} }

// Resolve is s as a mount for owner, when it is ephemeral: nothing has to be looked up for it.
func (s Spec) Resolve(owner Owner) Mount {
	m := Mount{
		Spec: s, Driver: DriverEphemeral, VolumeHandle: ephemeralHandle + s.Volume, Owner: owner, AccessMode: ReadWriteMany,
		Attributes: map[string]string{"size": strconv.FormatInt(s.Ephemeral.Size, 10)},
	}
	if s.Ephemeral.Inodes != 0 {
		m.Attributes["inodes"] = strconv.FormatInt(s.Ephemeral.Inodes, 10)
	}
	return m
}

// ephemeralHandle begins the handles of ephemeral volumes, which are known in their sandbox only.
const ephemeralHandle = "ephemeral/"

// DerivedID is the mount ID of a spec that names none: stable for the same volume, container and target.
func (s Spec) DerivedID() string {
	text := s.Volume + "\x00" + s.Container + "\x00" + s.Target
	if s.Kind != "" {
		text = string(s.Kind) + "\x00" + text
	}
	sum := sha256.Sum256([]byte(text))
	return "m" + hex.EncodeToString(sum[:])[:15]
}

// Mount is a resolved Spec: everything a driver needs. A plain value; nobody modifies one that was handed to him.
type Mount struct {
	Spec
	// Driver is the CSI driver name, or one of the built-in names below for volumes with a plain source.
	Driver string
	// VolumeHandle is the PersistentVolume's volumeHandle, verbatim; it is the volume_id on every CSI wire.
	VolumeHandle string
	// Attributes are the PersistentVolume's volumeAttributes, or the fields of a plain source.
	Attributes map[string]string
	// Options are the PersistentVolume's mountOptions, already split at commas.
	Options []string
	// AccessMode is the PersistentVolume's widest access mode.
	AccessMode AccessMode
	// Owner owns the root of the mount and the directories made for it.
	Owner Owner
	// Prefix is the directory of the volume that its owner confines this mount to; SubPath lies in it. Empty: the whole volume.
	Prefix string `json:",omitzero"`
	// OwnerReadOnly says that it is the volume's owner who wants it read-only, whatever the caller asks.
	OwnerReadOnly bool `json:",omitzero"`
	// Enforced says that OwnerReadOnly or Prefix has to hold against whatever the sandbox tries. The agent knows only this of them.
	Enforced bool `json:",omitzero"`
	// FSType is the PersistentVolume's fsType, for drivers that are not built in.
	FSType string `json:",omitzero"`
	// Nodes are the names of the nodes that alone have the volume; nil for all.
	Nodes []string `json:",omitzero"`
	// Secret holds the volume's credentials.
	Secret Secret
	// StageSecret holds those of nodeStageSecretRef, for drivers that are not built in.
	StageSecret Secret `json:",omitzero"`
}

// Is says whether m is the mount that was asked for as have, which may have been written down before the volume's owner had his say
// in ReadOnly.
func (m Mount) Is(have Spec) bool {
	have.AllowNonEmpty, have.ReadOnly = m.AllowNonEmpty, have.ReadOnly || m.OwnerReadOnly
	return have == m.Spec
}

// Names of the built-in drivers.
const (
	DriverOSS      = "ossplugin.csi.alibabacloud.com"
	DriverNAS      = "nasplugin.csi.alibabacloud.com"
	DriverTmpfs    = "tmpfs.csi.sandgate.dev"
	DriverHostPath = "hostpath.csi.sandgate.dev" // PersistentVolumes with spec.hostPath or spec.local; attributes "path" and "type"
	DriverPool     = "pool.csi.sandgate.dev"     // what the kubelet has mounted into the agent; attribute "path"
	// DriverEphemeral is of specs that are ephemeral, and of no PersistentVolume; attributes "size" and "inodes".
	DriverEphemeral = "ephemeral.csi.sandgate.dev"
)

// PoolDir is where an agent in a pod finds the volumes of its pool, each in a directory of its name.
const PoolDir = "/var/lib/sandgate-pool"

// BuiltIn says whether driver is one of those above.
func BuiltIn(driver string) bool {
	return driver == DriverOSS || driver == DriverNAS || driver == DriverTmpfs || driver == DriverHostPath || driver == DriverPool ||
		driver == DriverEphemeral
}

// ContextPrefix begins the keys of a CSI request's volume context that say what CSI has no field for. They are ours: no attribute of a volume
// begins so.
const ContextPrefix = "sandgate.dev/"

// AccessMode is a PersistentVolume access mode, by its Kubernetes name.
type AccessMode string

// The access modes of Kubernetes.
const (
	ReadWriteOnce    AccessMode = "ReadWriteOnce"
	ReadOnlyMany     AccessMode = "ReadOnlyMany"
	ReadWriteMany    AccessMode = "ReadWriteMany"
	ReadWriteOncePod AccessMode = "ReadWriteOncePod"
)

// Owner is the user and group, as numbers, that a mount belongs to.
type Owner struct{ UID, GID uint32 }
