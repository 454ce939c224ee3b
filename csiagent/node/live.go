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
	// Served says that a client process serves it, which may end, and may take other credentials.
	Served bool
	Health
	MountedAt time.Time
}

func (e *entry) view(v Verdict, message string) Live {
	l := Live{
		Spec: e.Spec, Driver: e.Driver, VolumeHandle: e.VolumeHandle, Phase: Failed, Served: e.Client.PID != 0, Health: Health{v, message},
		MountedAt: e.MountedAt,
	}
	if l.Works() {
		l.Phase = Mounted
	}
	return l
}

// Known returns the published mounts as they were when somebody last looked, in no order. Nothing is asked, so that nothing can hang.
func (n *Node) Known() []Live {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]Live, 0, len(n.live))
	for _, e := range n.live {
		h := e.look.Health
		switch {
		case e.dead != "":
			h = Health{VerdictDead, e.dead}
		case h.Verdict == "": // it was read when it was mounted
			h.Verdict = VerdictLive
		}
		out = append(out, e.view(h.Verdict, h.Message))
	}
	return out
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
