package start

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// Unreachable is the error of a sandbox that cannot be used, through no fault of the request: another one is taken.
func Unreachable(what string, err error) error {
	return &warmpool.Error{Code: warmpool.Unavailable, Message: "the sandbox cannot be used: " + what, Err: fmt.Errorf("%w: %w", warmpool.ErrUnreachable, err)}
}

// Volume is a driver's error as the caller of a create reads it. What a driver did not classify stays in the log; what has a code
// already is as it should be.
func Volume(m mount.Mount, err error) error {
	var coded *warmpool.Error
	if errors.As(err, &coded) {
		return err
	}
	where := fmt.Sprintf("volume '%s' at %s", m.Volume, m.Target)
	var faults mount.Faults
	if errors.As(err, &faults) {
		return &warmpool.Error{Code: warmpool.Invalid, Message: where + " could not be mounted: " + faults.Error(), Err: err}
	}
	for _, kind := range []struct {
		is   error
		code warmpool.Code
	}{
		{mount.ErrInvalid, warmpool.Invalid},
		{mount.ErrDenied, warmpool.Denied},
		// A volume that is not there is the request's fault; the code NotFound would speak of the template.
		{mount.ErrNotFound, warmpool.Invalid},
		{mount.ErrUnavailable, warmpool.Unavailable},
		{node.ErrConflict, warmpool.Conflict},
	} {
		if errors.Is(err, kind.is) {
			return &warmpool.Error{Code: kind.code, Message: where + " could not be mounted: " + err.Error(), Err: err}
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return &warmpool.Error{Code: warmpool.Unavailable, Message: where + " was not mounted in time", Err: err}
	}
	return &warmpool.Error{Code: warmpool.Internal, Message: where + " could not be mounted; the operator finds the reason in the log", Err: err}
}

// late is the error of a start that took too long, with the volumes that it waited for.
func late(volumes []error, cause error) error {
	text := "the sandbox was not ready within the request's time"
	if len(volumes) > 0 {
		text += ": " + Message(join(volumes))
	}
	return &warmpool.Error{Code: warmpool.Unavailable, Message: text, Err: cause}
}

// join names every volume that failed, under the first one's code.
func join(all []error) error {
	if len(all) == 1 {
		return all[0]
	}
	lines := make([]string, len(all))
	for i, err := range all {
		lines[i] = Message(err)
	}
	return &warmpool.Error{Code: warmpool.CodeOf(all[0]), Message: strings.Join(lines, "; "), Err: errors.Join(all...)}
}

// Message is what the caller may read of an error.
func Message(err error) string {
	var e *warmpool.Error
	if errors.As(err, &e) {
		return e.Message
	}
	return "internal error"
}
