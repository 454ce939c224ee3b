package local

import (
	"context"
	"net"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// machine is where containers are made. The real one is host; tests of the pool have one in memory.
type machine interface {
	// Make brings up a sandbox until its daemon answers. It leaves nothing behind when it fails.
	Make(ctx context.Context, id warmpool.ID, p plan) (box, error)
	// Adopt takes over a living sandbox that another process made.
	Adopt(ctx context.Context, r record) (box, error)
	// Watch keeps sandboxes from reaching what the machine becomes, until ctx ends.
	Watch(ctx context.Context)
	// Discard ends and removes whatever there is of a sandbox; nothing is fine.
	Discard(ctx context.Context, id warmpool.ID) error
	// Known are the sandboxes that have left anything on this machine.
	Known() ([]warmpool.ID, error)
	Load(id warmpool.ID) (record, error)
	Save(r record) error
}

// box is one living sandbox.
type box interface {
	Process() mount.Process
	// Uplink is the process of its network, zero when it has none.
	Uplink() mount.Process
	// Gone is closed when its first process has ended.
	Gone() <-chan struct{}
	Dial(ctx context.Context, port uint16) (net.Conn, error)
	// Init gives the daemon its owner's token and variables and returns its version.
	Init(ctx context.Context, token warmpool.Token, env map[string]string) (string, error)
	// Isolate takes the network away, for good.
	Isolate(ctx context.Context) error
	Publish(ctx context.Context, m mount.Mount) error
	// Unpublish takes away what is mounted at a target; one in use stays unless force. Errors are those of node.
	Unpublish(ctx context.Context, target string, force bool) error
	// Refresh gives a published mount the credentials of m, and another client where its own has ended. It mounts nothing that is not there.
	Refresh(ctx context.Context, m mount.Mount) error
	// Look says how published mounts are, by id. It asks the storage.
	Look(ctx context.Context) map[string]node.Health
	// Known is what was last seen of published mounts, by id. It asks nobody.
	Known() map[string]node.Live
	Usage() (sample, error)
	// End flushes and unmounts the volumes, kills the container and removes everything; again after a failure.
	End(ctx context.Context) error
	// Detach lets go of a sandbox that lives on.
	Detach()
}

// sample is one reading of a sandbox's counters.
type sample struct {
	cpu                 time.Duration
	memory, cache       int64
	diskUsed, diskTotal int64
}
