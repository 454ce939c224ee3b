package gateway

import (
	"context"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// Backend is where sandboxes come from. Every implementation passes warmpool/warmpooltest.
type Backend interface {
	// Template finds a warm pool by name or alias. NotFound.
	Template(ctx context.Context, name string) (warmpool.Template, error)
	// Templates lists the warm pools by name.
	Templates(ctx context.Context) ([]warmpool.Template, error)
	// Claim takes a sandbox for the claim's principal, from stock or made for it, on one of the claim's nodes, within ctx's deadline. The
	// claim's mounts are recorded as intent. NotFound (template), Exhausted (with RetryAfter), Unavailable.
	Claim(ctx context.Context, c warmpool.Claim) (warmpool.Sandbox, error)
	// Start initialises a claimed sandbox's daemon and publishes its mounts, together, and returns it running. When it
	// returns an error nothing of the mounts is left; errors.Is(err, warmpool.ErrUnreachable) means that the sandbox is to
	// blame and has been marked failed. Otherwise the error's code and message are the volume's. Conflict for one that was
	// started before.
	Start(ctx context.Context, id warmpool.ID, s warmpool.Start) (warmpool.Sandbox, error)
	// Publish mounts a volume into a running sandbox beside those that it has, and returns when it was read there; made says whether it
	// was not there before. The same again does nothing while it works. When it returns an error nothing of it is left. NotFound for a
	// sandbox that is not running, Conflict around mount.Faults where others leave no room for it, else the volume's own code.
	Publish(ctx context.Context, id warmpool.ID, m mount.Mount) (st warmpool.MountStatus, made bool, err error)
	// Unpublish takes the mount of that ID from a running sandbox: flushed, detached, and not asked for any more. Of m the ID counts and,
	// where it is known, the handle of the volume that m names, if the mount is one of that volume. Conflict for one in use, which stays
	// unless force. errors.Is(err, warmpool.ErrDataLoss) means that it is gone, but its last writes may be missing. NotFound for a sandbox
	// that is not running and a mount it has not.
	Unpublish(ctx context.Context, id warmpool.ID, m mount.Mount, force bool) error
	// Get returns a claimed sandbox. NotFound for unknown, unclaimed and ended ones.
	Get(ctx context.Context, id warmpool.ID) (warmpool.Sandbox, error)
	// List returns the claimed sandboxes that the filter chooses, in no order.
	List(ctx context.Context, f warmpool.Filter) ([]warmpool.Sandbox, error)
	// SetDeadline moves a sandbox's end and returns it. NotFound.
	SetDeadline(ctx context.Context, id warmpool.ID, d warmpool.Deadline) (warmpool.Sandbox, error)
	// Release ends a sandbox: flushes and unmounts its volumes, then kills it. NotFound when it is already gone.
	Release(ctx context.Context, id warmpool.ID) error
}

// Checker is the optional ability to say, before a sandbox is spent on it, what a volume's driver would refuse. The error wraps
// one of mount's kinds and is for the caller to read.
type Checker interface {
	Check(m mount.Mount) error
}

// Rereader is the optional ability of a backend that answers Get by what it has heard: to look at what another replica may have changed.
type Rereader interface {
	// Reread is Get as it is now.
	Reread(ctx context.Context, id warmpool.ID) (warmpool.Sandbox, error)
}

// Meter is the optional ability to tell what a sandbox uses. An empty result means no sample yet.
type Meter interface {
	Usage(ctx context.Context, id warmpool.ID) ([]warmpool.Usage, error)
}

// Rememberer is the optional ability to make a create request with an Idempotency-Key once, however often it is sent.
type Rememberer interface {
	// Remember takes a principal's key for one request, or tells what an earlier one with it has made. request is a digest of what is
	// asked for. Mismatch when it was another one, Conflict while another replica or request is making it.
	Remember(ctx context.Context, p warmpool.Principal, key, request string) (warmpool.Record, error)
}
