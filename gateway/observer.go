package gateway

import (
	"context"
	"log/slog"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// Observer is told what requests go through, for metrics and traces. It is one method, so that a phase is a span and a duration at
// once, and nothing of a framework is known here.
type Observer interface {
	// Phase begins a phase of a request; driver is that of a volume where the phase is of one. It returns the context of what happens
	// within, and a function that is called once, at the phase's end.
	Phase(ctx context.Context, phase, driver string) (context.Context, func(err error))
}

// The phases of a request that makes a sandbox or changes its mounts. Backends have their own within PhaseClaim, PhaseStart and
// PhasePublish.
const (
	PhaseCreate  = "create"
	PhaseResolve = "resolve"
	PhaseClaim   = "claim"
	PhaseStart   = "start"

	PhasePublish   = "publish"
	PhaseUnpublish = "unpublish"
)

type unobserved struct{}

// Phase implements Observer.
func (unobserved) Phase(ctx context.Context, _, _ string) (context.Context, func(error)) {
	return ctx, func(error) {}
}

// audit writes down who has changed what, and whether it was done: one line for each call that changes something.
func (s *Service) audit(ctx context.Context, action string, p warmpool.Principal, id warmpool.ID, err error, more ...slog.Attr) {
	outcome := "ok"
	if err != nil {
		outcome = string(warmpool.CodeOf(err))
	}
	s.logger.LogAttrs(ctx, slog.LevelInfo, "audit", append([]slog.Attr{
		slog.String("request", RequestID(ctx)), slog.String("action", action), slog.String("team", p.Team), slog.String("key", p.Key),
		slog.String("sandbox", string(id)), slog.String("outcome", outcome),
	}, more...)...)
}

// volumes are the names and targets of a claim's mounts, for the audit.
func volumes(c warmpool.Claim) []string {
	out := make([]string, len(c.Mounts))
	for i, m := range c.Mounts {
		out[i] = brief(m)
	}
	return out
}

// brief is a mount in one word, empty for one that is not known.
func brief(m mount.Spec) string {
	switch {
	case m.Volume == "":
		return ""
	case m.ReadOnly:
		return m.Volume + ":" + m.Target + ":ro"
	}
	return m.Volume + ":" + m.Target
}
