package node

import (
	"errors"
	"fmt"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

var (
	// ErrConflict is a target at which something else is mounted, or lies.
	ErrConflict = errors.New("target is taken")
	// ErrInUse is a mount that somebody in the sandbox uses; it stays.
	ErrInUse = errors.New("the volume is in use")
	// ErrDataLoss is a volume that was unmounted, though what the sandbox wrote last may not have reached the storage.
	ErrDataLoss = errors.New("unmounted, but the last writes may be missing")
)

// translate gives the errors of the rooms below the kinds that callers know.
func translate(err error) error {
	switch {
	case errors.Is(err, probe.ErrHung):
		return fmt.Errorf("%w: the storage did not answer a read in time", mount.ErrUnavailable)
	case errors.Is(err, attach.ErrBusy):
		return fmt.Errorf("%w: something is mounted at the target, or it is a directory that is not empty; take another one, or set allowNonEmpty to hide what lies in it", ErrConflict)
	case errors.Is(err, attach.ErrUnsafe):
		return fmt.Errorf("%w: the target or the subPath is no plain directory, or leads through a symbolic link or another mount", mount.ErrDenied)
	case errors.Is(err, attach.ErrReadOnly):
		return fmt.Errorf("%w: a directory is missing on a read-only file system and cannot be made", mount.ErrDenied)
	case errors.Is(err, attach.ErrNotFound):
		return fmt.Errorf("%w: the subPath does not exist in a volume that is mounted read-only", mount.ErrNotFound)
	}
	return err
}

// unreachable is a container that cannot be reached: the cause is for errors.Is, its text is not for callers.
type unreachable struct{ cause error }

func (u unreachable) Error() string {
	return mount.ErrUnavailable.Error() + ": the container cannot be reached"
}
func (u unreachable) Unwrap() []error { return []error{mount.ErrUnavailable, u.cause} }
