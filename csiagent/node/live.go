package node

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

// Phase is the state of a published mount.
type Phase string

// The phases of a mount that was published.
const (
	Mounted Phase = "Mounted"
	Failed  Phase = "Failed" // does not work any more; Message says why
)

// Live is a published mount as it is now.
type Live struct {
	mount.Spec
	Driver       string
	VolumeHandle string
	Phase        Phase
	Message      string // for the caller to read
	MountedAt    time.Time
}

func (e *entry) view(p Phase, message string) Live {
	return Live{Spec: e.Spec, Driver: e.Driver, VolumeHandle: e.VolumeHandle, Phase: p, Message: message, MountedAt: e.MountedAt}
}

// probesAtOnce bounds the processes that one Mounts starts.
const probesAtOnce = 8

// Mounts returns the published mounts, ordered by container and target, and looks at each whether it can be read.
func (n *Node) Mounts(ctx context.Context) []Live {
	entries := n.entries()
	out := make([]Live, len(entries))
	var g errgroup.Group
	g.SetLimit(probesAtOnce)
	for i, e := range entries {
		g.Go(func() error {
			out[i] = n.look(ctx, e)
			return nil
		})
	}
	_ = g.Wait()
	slices.SortFunc(out, func(a, b Live) int {
		return strings.Compare(a.Container+"\x00"+a.Target, b.Container+"\x00"+b.Target)
	})
	return out
}

func (n *Node) look(ctx context.Context, e *entry) Live {
	if message := n.ailment(ctx, e); message != "" {
		return e.view(Failed, message)
	}
	return e.view(Mounted, "")
}

// ailment says what is wrong with a mount, "" when it can be read.
func (n *Node) ailment(ctx context.Context, e *entry) string {
	n.mu.Lock()
	dead := e.dead
	n.mu.Unlock()
	if dead != "" {
		return dead
	}
	t, err := n.target(ctx, e)
	if errors.Is(err, attach.ErrGone) {
		return "the container that had it is gone"
	}
	if err != nil {
		return "the container cannot be reached"
	}
	dir, err := t.Open(ctx, e.Spec.Target, e.MountID)
	switch {
	case errors.Is(err, attach.ErrNotFound):
		return "the mount is not in the container any more"
	case errors.Is(err, attach.ErrGone):
		return "the container that had it is gone"
	case err != nil:
		n.config.Logger.WarnContext(ctx, "mount cannot be opened", "mount", e.Spec.ID, "error", err)
		return "the mount cannot be opened"
	}
	defer func() { _ = dir.Close() }()
	if !e.Remote {
		return ""
	}
	switch err := n.config.Probe.Read(ctx, dir, e.FSType); {
	case errors.Is(err, probe.ErrHung):
		return "the storage does not answer"
	case err != nil:
		n.config.Logger.WarnContext(ctx, "mount cannot be read", "mount", e.Spec.ID, "error", err)
		return "the volume cannot be read"
	}
	return ""
}
