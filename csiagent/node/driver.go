package node

import (
	"context"
	"os"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// Driver makes a kind of volume available on this machine. Drivers import mount and nothing else of ours.
type Driver interface {
	// Check says what is wrong with m that can be told from m alone, in the words and kinds of Mount's errors; nil when only Mount
	// can tell. It touches no storage and does not block: the gateway asks it before a sandbox is spent on the volume.
	Check(m mount.Mount) error
	// Mount brings up m's volume and returns it as a Source. dir is a path of the agent's own, a new one for each call; its name up to the
	// first - is that of the mount's place, and the same wherever a driver is given a dir. For a Sweeper it is an empty directory that
	// it may mount on; for others nothing is there. It blocks until the volume is up or ctx ends, and leaves nothing behind when it fails.
	// Errors are warmpool-free: wrap one of mount.ErrInvalid, ErrDenied, ErrNotFound, ErrUnavailable where the fact is known, with a text
	// for the caller (no secret, no host path).
	Mount(ctx context.Context, m mount.Mount, dir string) (mount.Source, error)
	// Unmount undoes Mount after the volume was detached from its sandbox, also for a Source of an earlier process (client is
	// what Mount returned, from the journal). It flushes within ctx's deadline and is idempotent. An error says that data which
	// the sandbox has written may be missing.
	Unmount(ctx context.Context, dir string, client mount.Process) error
}

// Explainer is a Driver that can say why the client of a volume has ended, in the words and kinds of Driver.Mount's errors; nil
// when it does not know.
type Explainer interface {
	Explain(ctx context.Context, client mount.Process) error
}

// Opener is a Driver whose clients run where their numbers mean nothing to this process.
type Opener interface {
	// Open returns a descriptor that becomes readable when client ends; an error for one that has ended, which is context.DeadlineExceeded
	// when nobody could tell in time.
	Open(ctx context.Context, client mount.Process) (*os.File, error)
}

// Renewer is a Driver whose clients can be given other credentials while their volumes are in use.
type Renewer interface {
	// Renew gives client the credentials of m, and returns when it uses no earlier ones. With those that it has it does nothing, and
	// nothing with a client that cannot take any. Errors are as Mount's; the client then goes on with what it has.
	Renew(ctx context.Context, client mount.Process, m mount.Mount) error
}

// Adopter is a Driver that has something to do for clients of an earlier process as long as they live.
type Adopter interface {
	Adopt(ctx context.Context, client mount.Process) error
}

// Sweeper is a Driver whose clients mount on a directory, and can outlive an agent that was killed before it had written them down.
type Sweeper interface {
	// Sweep ends whoever serves, or is about to serve, a volume on dir.
	Sweep(ctx context.Context, dir string) error
}

// Keeper is a Driver that has something for each of its mounts until Unmount, and writes that down for itself.
type Keeper interface {
	// Keep is called by Adopt, where that knows of all mounts, with a dir for each that lives: whatever the driver has for others is to
	// be ended. It does not wait for storage.
	Keep(ctx context.Context, dirs []string) error
}
