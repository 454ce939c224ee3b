// Package warmpool holds the nouns of sandboxes that are made before they are wanted: Sandbox, Claim, Filter, Template, Error.
// It knows neither Kubernetes nor HTTP; the packages below it are where sandboxes really come from.
package warmpool

import (
	"context"
	"net"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// State is where a sandbox is in its life.
type State string

// The states of a sandbox.
const (
	Creating    State = "creating"    // being made; not yet stock
	Available   State = "available"   // stock: ready and unclaimed
	Claimed     State = "claimed"     // taken by a create request that has not been answered
	Running     State = "running"     // claimed, started, handed out
	Failed      State = "failed"      // dead or unreachable; Reason says why
	Terminating State = "terminating" // being released
)

// Principal is who asks: the owner of sandboxes and the subject of volume rules.
type Principal struct {
	Team string // owner of what the key creates
	Key  string // the key's public id, never the key
}

// Claim is what every dialect produces of a create request.
type Claim struct {
	Template  string // name or alias
	Principal Principal
	Mounts    []mount.Spec
	Env       map[string]string // for the sandbox's processes; not persisted in the clear
	Metadata  map[string]string // the caller's, echoed and filtered by
	Timeout   time.Duration     // until the deadline, from the moment the sandbox is handed out
	// AllowInternet is nil where the caller said nothing; false takes the sandbox's network away, true never adds what the
	// pool does not have.
	AllowInternet *bool
	// Nodes are the names of those that have all volumes of the sandbox, which is to be on one of them; nil: on any.
	Nodes []string `json:",omitzero"`
	// IdempotencyKey makes a repeated request get what the first one made. Empty for requests that do not say.
	IdempotencyKey string
}

// Start is what a claimed sandbox is fitted out with.
type Start struct {
	Mounts []mount.Mount
	Env    map[string]string
}

// Sandbox is what every dialect renders. A snapshot: a plain value.
type Sandbox struct {
	ID        ID
	Template  string   // name of its set
	Aliases   []string // of its set
	Principal Principal
	State     State
	Reason    string // why it failed, for the caller to read
	Metadata  map[string]string
	StartedAt time.Time // when it was claimed
	EndAt     time.Time // when it is killed
	Resources Resources
	// EnvdVersion is the version of the in-sandbox daemon's wire.
	EnvdVersion string
	// Token opens the in-sandbox daemon; only its owner gets to see it.
	Token         Token
	AllowInternet bool
	// Node is the name of the one that it is on.
	Node string
	// MadeFrom is its template as it was when the sandbox was made, without the counts of a pool: what can be mounted depends on it.
	MadeFrom Template
	Mounts   []MountStatus
}

// Resources are a sandbox's limits.
type Resources struct {
	CPUCount int // whole CPUs, rounded up, at least 1
	MemoryMB int // MiB
	DiskMB   int // MiB; 0 means no limit of its own
}

// MountPhase is the state of one mount of a sandbox.
type MountPhase string

// The phases of a mount.
const (
	MountPending MountPhase = "Pending"
	MountReady   MountPhase = "Mounted"
	MountFailed  MountPhase = "Failed" // never came up, or died; Message says why
)

// MountVerdict is what the last look at a mount has shown.
type MountVerdict string

// The verdicts on a mount that was made. One that never was has none.
const (
	MountLive MountVerdict = "live"
	MountSlow MountVerdict = "slow" // works, but a read takes long
	MountHung MountVerdict = "hung" // the storage does not answer
	MountDead MountVerdict = "dead" // nobody serves it any more, or it is gone
)

// MountKind is what mounts are counted by.
type MountKind struct {
	Phase   MountPhase
	Verdict MountVerdict
}

// MountKinds are all that there are.
func MountKinds() []MountKind {
	return []MountKind{
		{Phase: MountPending}, {MountReady, MountLive}, {MountReady, MountSlow}, {Phase: MountFailed}, {MountFailed, MountHung}, {MountFailed, MountDead},
	}
}

// MountStatus is the intent of one mount and what is known of it.
type MountStatus struct {
	mount.Spec
	Phase     MountPhase
	Verdict   MountVerdict // empty before it is mounted, and for one that never was
	Message   string
	MountedAt time.Time
}

// Template is a warm pool as callers see it.
type Template struct {
	Name      string
	Aliases   []string
	Runtimes  []string // "csi", or a "csi-NAME", must be among them for mounts
	Resources Resources
	// Owner owns what is mounted: the user of its main container, so that programs there can write.
	Owner mount.Owner
	// Containers are its containers, the main one first.
	Containers []Container
	// Reserved are the paths its pod template mounts; nothing may be mounted at, above or below them.
	Reserved []string
	// Namespace is where PersistentVolumeClaims are looked up by name.
	Namespace string
	// Volumes are those that each of its sandboxes has.
	Volumes []PoolVolume
	// Desired, Ready and Claimed count sandboxes.
	Desired, Ready, Claimed int
	CreatedAt, UpdatedAt    time.Time
	EnvdVersion             string
	// Reason says why the pool cannot be filled, empty when it can.
	Reason string
}

// Container is one of a template's.
type Container struct {
	Name string
	// Mounts says whether volumes can be mounted into it.
	Mounts bool
	// Memory is its limit in bytes; 0 means none.
	Memory int64
}

// PoolVolume is a volume that every sandbox of a template has.
type PoolVolume struct {
	// Mount is its Spec, as it is asked for in each sandbox, and for one of KindPool all that its driver needs, unless Claim says it.
	mount.Mount
	// Claim is the PersistentVolumeClaim in the template's namespace that stands for the rest of Mount; empty for none.
	Claim string
	// AtClaim says that it is mounted when a sandbox is claimed, and not before.
	AtClaim bool
}

// Filter chooses sandboxes; zero fields choose all.
type Filter struct {
	Team     string
	Template string            // name or alias
	Metadata map[string]string // all must match
	States   []State
}

// Deadline is a new end for a sandbox.
type Deadline struct {
	At time.Time
	// OnlyLater leaves an end that is already later than At as it is.
	OnlyLater bool
}

// Usage is what a sandbox uses now. Sizes are bytes.
type Usage struct {
	At                          time.Time
	CPUCount                    int
	CPUPercent                  float64 // of CPUCount CPUs, since the previous sample
	MemUsed, MemTotal, MemCache int64
	DiskUsed, DiskTotal         int64
}

// Record is what is remembered of an idempotent create request.
type Record struct {
	// Made is the sandbox that an earlier request has made. Empty when the caller is the one to make it: then exactly one of the
	// functions is called in the end.
	Made ID
	// Keep remembers what was made, before the request is answered. An error says that nobody will find it.
	Keep func(ctx context.Context, id ID) error
	// Forget lets the next request with the key try again.
	Forget func(ctx context.Context) error
}

// Route is the way to a sandbox's ports.
type Route struct {
	// Dial connects to a TCP port inside the sandbox, on its loopback or any of its addresses.
	Dial func(ctx context.Context, port uint16) (net.Conn, error)
	// Gone is closed when the sandbox is dead; connections through it must be reset then.
	Gone <-chan struct{}
}
