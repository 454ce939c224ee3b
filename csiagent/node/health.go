package node

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

// Verdict is how a published volume is.
type Verdict string

// The verdicts, of which live and slow volumes can be used.
const (
	VerdictLive Verdict = "live"
	VerdictSlow Verdict = "slow" // a read took longer than Config.SlowAfter
	VerdictHung Verdict = "hung" // a read was not answered within the Probe's time
	VerdictDead Verdict = "dead" // its client has ended, or it is not there any more
)

// Health is a verdict and what there is to say about it, for the caller to read; also of a live volume that has been healed. The message
// changes only when there is news.
type Health struct {
	Verdict Verdict
	Message string
}

// Works says whether the volume can be used.
func (h Health) Works() bool { return h.Verdict == VerdictLive || h.Verdict == VerdictSlow }

// look is what the last read of a volume has shown. Guarded by Node.mu.
type look struct {
	Health
	at      time.Time
	hung    time.Time // since when every read hangs; zero when the last one did not
	running bool
}

// health reads a volume and says how it is. A read that is under way already tells what was known before it: one that hangs is not
// joined by others.
func (n *Node) health(ctx context.Context, e *entry) Health {
	n.mu.Lock()
	if e.dead != "" {
		defer n.mu.Unlock()
		return Health{VerdictDead, e.dead}
	}
	if e.look.running && e.look.Verdict != "" {
		defer n.mu.Unlock()
		return e.look.Health
	}
	e.look.running = true
	n.mu.Unlock()
	begun := n.config.Clock.Now()
	h := n.read(ctx, e)
	now := n.config.Clock.Now()
	if h.Verdict == VerdictLive && e.Remote && now.Sub(begun) >= n.config.SlowAfter {
		h = Health{VerdictSlow, "slow: a read takes longer than " + n.config.SlowAfter.String()}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if e.dead != "" { // meanwhile
		h = Health{VerdictDead, e.dead}
	}
	if h.Verdict == VerdictLive {
		h.Message = n.past[e.place()].String()
	}
	was := e.look
	e.look = look{Health: h, at: now}
	if h.Verdict == VerdictHung {
		if e.look.hung = was.hung; e.look.hung.IsZero() {
			e.look.hung = begun
		}
	}
	if was.Verdict != h.Verdict && (was.Verdict != "" || h.Verdict != VerdictLive) {
		n.config.Logger.InfoContext(ctx, "volume's health changed", "mount", e.Spec.ID, "driver", e.Driver, "target", e.Spec.Target,
			"verdict", h.Verdict, "message", h.Message)
	}
	return h
}

// read asks a volume in its container.
func (n *Node) read(ctx context.Context, e *entry) Health {
	t, err := n.target(ctx, e)
	if errors.Is(err, attach.ErrGone) {
		return Health{VerdictDead, "the container that had it is gone"}
	}
	if err != nil {
		return Health{VerdictDead, "the container cannot be reached"}
	}
	dir, err := t.Open(ctx, e.Spec.Target, e.MountID)
	switch {
	case errors.Is(err, attach.ErrNotFound):
		return Health{VerdictDead, "the mount is not in the container any more"}
	case errors.Is(err, attach.ErrGone):
		return Health{VerdictDead, "the container that had it is gone"}
	case err != nil:
		n.config.Logger.WarnContext(ctx, "mount cannot be opened", "mount", e.Spec.ID, "error", err)
		return Health{VerdictDead, "the mount cannot be opened"}
	}
	defer func() { _ = dir.Close() }()
	if !e.Remote {
		return Health{Verdict: VerdictLive}
	}
	switch err := n.config.Probe.Read(ctx, dir, e.FSType); {
	case errors.Is(err, probe.ErrHung):
		return Health{VerdictHung, "hung: the storage does not answer"}
	case errors.Is(err, unix.ENOTCONN):
		return Health{VerdictDead, "dead: nobody serves this volume any more"}
	case err != nil:
		n.config.Logger.WarnContext(ctx, "mount cannot be read", "mount", e.Spec.ID, "error", err)
		return Health{VerdictDead, "the volume cannot be read"}
	}
	return Health{Verdict: VerdictLive}
}

// stuck says whether e's client has not answered for so long that another one is to take its place.
func (n *Node) stuck(e *entry) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return e.Client.PID != 0 && !e.look.hung.IsZero() && n.config.Clock.Since(e.look.hung) >= n.config.HungAfter
}
