package node

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
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
	at    time.Time
	hung  time.Time     // since when every read hangs; zero when the last one did not
	begun time.Time     // when the one that is under way was
	over  chan struct{} // closed at its end; nil when none is
}

// health reads a volume and says how it is. A read that is under way is waited for: one that hangs is not joined by others. When ctx ends
// first, the answer is what was known before, or that it is slow.
func (n *Node) health(ctx context.Context, e *entry) Health {
	n.mu.Lock()
	over := e.look.over
	if over == nil && e.dead == "" && !n.closed {
		over = make(chan struct{})
		e.look.over, e.look.begun = over, n.config.Clock.Now()
		n.carers.Go(func() { n.examine(e) })
	}
	n.mu.Unlock()
	if over != nil {
		select {
		case <-over:
		case <-ctx.Done():
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch h := e.look.Health; {
	case e.dead != "":
		return Health{VerdictDead, e.dead}
	case e.look.over != nil && (h.Verdict == "" || h.Works()) && n.late(e.look.begun):
		return n.slow()
	case h.Verdict == "":
		return Health{VerdictHung, hung}
	default:
		return h
	}
}

const hung = "hung: the storage does not answer"

func (n *Node) late(begun time.Time) bool { return n.config.Clock.Since(begun) >= n.config.SlowAfter }

func (n *Node) slow() Health {
	return Health{VerdictSlow, "slow: a read takes longer than " + n.config.SlowAfter.String()}
}

// examine reads a volume, whoever waits for it.
func (n *Node) examine(e *entry) {
	h := n.read(n.ctx, e)
	n.mu.Lock()
	defer n.mu.Unlock()
	was := e.look
	if h.Verdict == VerdictLive && e.Remote && n.late(was.begun) {
		h = n.slow()
	}
	if h.Verdict == VerdictLive {
		h.Message = n.past[e.place()].String()
	}
	e.look = look{Health: h, at: n.config.Clock.Now()}
	if h.Verdict == VerdictHung {
		if e.look.hung = was.hung; was.hung.IsZero() {
			e.look.hung = was.begun
		}
	}
	close(was.over)
	if was.Verdict != h.Verdict && (was.Verdict != "" || h.Verdict != VerdictLive) {
		n.config.Logger.Info("volume's health changed", "mount", e.Spec.ID, "driver", e.Driver, "target", e.Spec.Target,
			"verdict", h.Verdict, "message", h.Message)
	}
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
	within, cancel := context.WithTimeout(ctx, lookTimeout) // nobody else bounds it
	defer cancel()
	dir, err := t.Open(within, e.Spec.Target, e.MountID)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return Health{VerdictHung, hung}
	case errors.Is(err, attach.ErrNotFound):
		return Health{VerdictDead, "the mount is not in the container any more"}
	case errors.Is(err, attach.ErrGone):
		return Health{VerdictDead, "the container that had it is gone"}
	case err != nil:
		n.config.Logger.WarnContext(ctx, "mount cannot be opened", "mount", e.Spec.ID, "error", err)
		return Health{VerdictDead, "the mount cannot be opened"}
	}
	defer func() { _ = dir.Close() }()
	if e.Driver == mount.DriverEphemeral {
		n.keepHeld(ctx, t, e)
	}
	if !e.Remote {
		return Health{Verdict: VerdictLive}
	}
	switch err := n.config.Probe.Read(ctx, dir, e.FSType); {
	case errors.Is(err, probe.ErrHung):
		return Health{VerdictHung, hung}
	case errors.Is(err, unix.ENOTCONN):
		return Health{VerdictDead, "dead: nobody serves this volume any more"}
	case err != nil:
		n.config.Logger.WarnContext(ctx, "mount cannot be read", "mount", e.Spec.ID, "error", err)
		return Health{VerdictDead, "the volume cannot be read"}
	}
	return Health{Verdict: VerdictLive}
}

// broken says whether e is dead, or its client has not answered for so long that another one is to take its place.
func (n *Node) broken(e *entry) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return e.dead != "" || e.Client.PID != 0 && !e.look.hung.IsZero() && n.config.Clock.Since(e.look.hung) >= n.config.HungAfter
}
