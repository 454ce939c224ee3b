package start

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// again is when to ask again a sandbox that could not be reached.
const again = 2 * time.Second

// Beside refuses a mount that those of a running sandbox leave no room for, nil where there is room. The error is a Conflict around
// mount.Faults.
func Beside(there []mount.Spec, s mount.Spec) error {
	faults := mount.Clashes(there, s)
	if len(faults) == 0 {
		return nil
	}
	return &warmpool.Error{Code: warmpool.Conflict, Message: faults.Error(), Err: faults}
}

// Mounted is the error of a mount into a running sandbox as its caller reads it.
func Mounted(m mount.Mount, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, warmpool.ErrUnreachable):
		return unreached(m.Spec, "mounted", err)
	}
	return Volume(m, err)
}

// Unmounted is the error of an unmount from a running sandbox as its caller reads it. What is not there any more is no error; that last
// writes may be missing is told with warmpool.ErrDataLoss, and the volume is gone all the same.
func Unmounted(s mount.Spec, err error) error {
	var coded *warmpool.Error
	where := fmt.Sprintf("volume '%s' at %s", s.Volume, s.Target)
	switch {
	case err == nil, errors.Is(err, mount.ErrNotFound):
		return nil
	case errors.As(err, &coded):
		return err
	case errors.Is(err, node.ErrDataLoss):
		return fmt.Errorf("%s: %w: %w", where, warmpool.ErrDataLoss, err)
	case errors.Is(err, node.ErrInUse):
		return &warmpool.Error{Code: warmpool.Conflict, Err: err, Message: where +
			" is in use: a program in the sandbox has a file or its working directory there; end it, or unmount with force"}
	case errors.Is(err, mount.ErrUnavailable):
		return &warmpool.Error{Code: warmpool.Unavailable, RetryAfter: again, Err: err, Message: where +
			" was not unmounted: " + err.Error() + "; try again, or unmount with force and give them up"}
	case errors.Is(err, warmpool.ErrUnreachable):
		return unreached(s, "unmounted", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &warmpool.Error{Code: warmpool.Unavailable, RetryAfter: again, Message: where + " was not unmounted in time; try again", Err: err}
	}
	return &warmpool.Error{Code: warmpool.Internal, Message: where + " could not be unmounted; the operator finds the reason in the log", Err: err}
}

func unreached(s mount.Spec, what string, err error) error {
	return &warmpool.Error{
		Code: warmpool.Unavailable, RetryAfter: again, Err: err,
		Message: fmt.Sprintf("volume '%s' at %s could not be %s: the sandbox's agent cannot be reached at the moment; try again", s.Volume, s.Target, what),
	}
}
