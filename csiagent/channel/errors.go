package channel

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

// kinds are what the agent's codes mean here; node has the same table the other way round.
var kinds = map[codes.Code]error{
	codes.DataLoss:         node.ErrDataLoss,
	codes.AlreadyExists:    node.ErrConflict,
	codes.Aborted:          node.ErrInUse,
	codes.InvalidArgument:  mount.ErrInvalid,
	codes.PermissionDenied: mount.ErrDenied,
	codes.NotFound:         mount.ErrNotFound,
}

// answered is an error that the agent has told: its text is for the caller, its kind for errors.Is.
type answered struct {
	text string
	kind error
}

func (a answered) Error() string { return a.text }
func (a answered) Unwrap() error { return a.kind }

// fromStatus gives an error of a call its kind. What an agent has told is unavailable is the volume; otherwise the agent is.
func fromStatus(ctx context.Context, err error, told bool) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if kind, ok := kinds[s.Code()]; ok {
		return answered{s.Message(), kind}
	}
	switch s.Code() {
	case codes.DeadlineExceeded, codes.Canceled:
		if ctx.Err() != nil {
			return fmt.Errorf("the agent did not answer in time: %w", ctx.Err())
		}
		return fmt.Errorf("%w: %s", ErrUnreachable, s.Message())
	case codes.Unimplemented:
		return ErrTooOld
	case codes.FailedPrecondition:
		return fmt.Errorf("%w: %w", ErrUnreachable, ErrNotReady)
	case codes.Unavailable:
		if told {
			return answered{s.Message(), mount.ErrUnavailable}
		}
		return fmt.Errorf("%w: %s", ErrUnreachable, s.Message())
	case codes.Internal, codes.Unknown, codes.ResourceExhausted, codes.OutOfRange:
		return errors.New(s.Message())
	}
	return fmt.Errorf("%w: %s", ErrUnreachable, s.Message())
}
