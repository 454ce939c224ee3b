package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// UnpublishIdle is Unpublish of a mount that nobody uses. One in use stays as it is, with ErrInUse, and so does one whose last writes
// cannot be written back, with mount.ErrUnavailable. ErrDataLoss is left for a volume whose client had died before.
func (n *Node) UnpublishIdle(ctx context.Context, id Identity) error {
	return n.unpublish(ctx, id, func(ctx context.Context, e *entry) error {
		if err := n.loosen(ctx, e); err != nil {
			return err
		}
		return n.take(ctx, e) // what is left: the client and the records
	})
}

// loosen takes an idle mount out of its container, and changes nothing else.
func (n *Node) loosen(ctx context.Context, e *entry) error {
	target, err := n.target(ctx, e)
	switch {
	case errors.Is(err, attach.ErrGone): // and the mount with it
		return nil
	case err != nil:
		n.config.Logger.WarnContext(ctx, "container cannot be reached", "mount", e.Spec.ID, "error", err)
		return unreachable{err}
	}
	if n.crashed(ctx, e) {
		n.mu.Lock()
		e.die(clientEnded) // take cannot tell any more once the mount is out
		n.mu.Unlock()
	} else if err := n.flush(ctx, target, e); err != nil && !e.ReadOnly {
		n.config.Logger.WarnContext(ctx, "flush", "mount", e.Spec.ID, "error", err)
		return fmt.Errorf("%w: the last writes cannot be written back", mount.ErrUnavailable)
	}
	err = detachIdle(ctx, target, e)
	switch {
	case err == nil, errors.Is(err, attach.ErrGone):
		return nil
	case errors.Is(err, ErrInUse):
		return err
	}
	n.config.Logger.WarnContext(ctx, "detach", "mount", e.Spec.ID, "error", err)
	return fmt.Errorf("%w: the mount cannot be taken from the container", mount.ErrUnavailable)
}

// Who only looks at a mount, as our own probes do, uses it for a moment.
const (
	glance  = 50 * time.Millisecond
	glances = 6
)

// detachIdle takes the mount away unless somebody uses it for longer than a look.
func detachIdle(ctx context.Context, t Target, e *entry) error {
	ctx, cancel := context.WithTimeout(ctx, detachTimeout)
	defer cancel()
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for range glances {
		err := t.Detach(ctx, e.Spec.Target, e.MountID, false)
		if !errors.Is(err, attach.ErrBusy) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fmt.Errorf("%w: a program in the sandbox has a file or its working directory there", ErrInUse)
}
