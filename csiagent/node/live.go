package node

import (
	"context"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
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
	Health
	MountedAt time.Time
}

func (e *entry) view(v Verdict, message string) Live {
	l := Live{Spec: e.Spec, Driver: e.Driver, VolumeHandle: e.VolumeHandle, Phase: Failed, Health: Health{v, message}, MountedAt: e.MountedAt}
	if l.Works() {
		l.Phase = Mounted
	}
	return l
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
			h := n.health(ctx, e)
			out[i] = e.view(h.Verdict, h.Message)
			return nil
		})
	}
	_ = g.Wait()
	slices.SortFunc(out, func(a, b Live) int {
		return strings.Compare(a.Container+"\x00"+a.Target, b.Container+"\x00"+b.Target)
	})
	return out
}
