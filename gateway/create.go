package gateway

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

// attempts is how many sandboxes a create request may use up when they turn out to be unreachable, or made with what the claimant cannot have.
const attempts = 3

// Create answers a running sandbox with every mount ready, or an error and nothing: resolve, admit, claim, start. Whatever
// can be refused is refused before a sandbox is claimed. A sandbox that cannot be reached, or that was made with a volume which is not for the
// claimant, is replaced by another one. With an IdempotencyKey the same request again gets the same sandbox.
func (s *Service) Create(ctx context.Context, c warmpool.Claim) (sb warmpool.Sandbox, err error) {
	ctx, done := s.observe.Phase(ctx, PhaseCreate, "")
	if c.IdempotencyKey != "" {
		sb, err = s.createOnce(ctx, c)
	} else {
		sb, err = s.create(ctx, c)
	}
	done(err)
	s.audit(ctx, "create", c.Principal, sb.ID, err, slog.String("template", c.Template), slog.Any("mounts", volumes(c)))
	return sb, err
}

func (s *Service) create(ctx context.Context, c warmpool.Claim) (warmpool.Sandbox, error) {
	within, cancel := context.WithTimeout(ctx, s.limits.Create)
	defer cancel()
	if err := s.checkTimeout(c.Timeout); err != nil {
		return warmpool.Sandbox{}, err
	}
	resolving, done := s.observe.Phase(within, PhaseResolve, "")
	template, mounts, nodes, err := s.mounts(resolving, c)
	done(err)
	if err != nil {
		return warmpool.Sandbox{}, coded(err)
	}
	c.Nodes = nodes
	want := share{team: c.Principal.Team, mounts: len(template.Volumes) + len(c.Mounts)}
	for range attempts {
		var sb warmpool.Sandbox
		sb, err = s.attempt(within, c, want, mounts)
		if err == nil {
			return sb, nil
		}
		if !errors.Is(err, warmpool.ErrUnreachable) || within.Err() != nil {
			return warmpool.Sandbox{}, coded(err)
		}
		s.logger.WarnContext(ctx, "sandbox cannot be used, taking another", "request", RequestID(ctx), "template", c.Template, "error", err)
	}
	if errors.Is(err, errOutdated) {
		return warmpool.Sandbox{}, err
	}
	return warmpool.Sandbox{}, &warmpool.Error{
		Code: warmpool.Unavailable, Err: err,
		Message: "the sandboxes of this template cannot be reached at the moment; try again",
	}
}

// attempt claims one sandbox and starts it. On any error the sandbox is released.
func (s *Service) attempt(ctx context.Context, c warmpool.Claim, want share, mounts []mount.Mount) (warmpool.Sandbox, error) {
	claiming, done := s.observe.Phase(ctx, PhaseClaim, "")
	claimed, err := s.claim(claiming, c, want)
	done(err)
	if err != nil {
		return warmpool.Sandbox{}, err
	}
	handedOut := false
	defer func() {
		if !handedOut {
			s.undo(ctx, claimed.ID)
		}
	}()
	if c.Nodes != nil && !slices.Contains(c.Nodes, claimed.Node) {
		return warmpool.Sandbox{}, warmpool.Errorf(warmpool.Internal, "sandbox %s is not on a node of its volumes", claimed.ID)
	}
	own, err := s.furnish(ctx, c, claimed)
	if err != nil {
		return warmpool.Sandbox{}, err
	}
	expanded, err := volume.Expand(slices.Concat(own, mounts), claimed.ID, c.Metadata)
	if err != nil {
		return warmpool.Sandbox{}, refusal(err)
	}
	starting, done := s.observe.Phase(ctx, PhaseStart, "")
	started, err := s.backend.Start(starting, claimed.ID, warmpool.Start{Mounts: expanded, Env: c.Env})
	done(err)
	if err == nil {
		err = ctx.Err() // nobody is left to answer: the sandbox would live unknown until its deadline
	}
	switch {
	case err != nil && len(expanded) > 0:
		return warmpool.Sandbox{}, final(err)
	case err != nil:
		return warmpool.Sandbox{}, err
	}
	handedOut = true
	return started, nil
}

// claim claims a sandbox, if the team may have what it is to be given.
func (s *Service) claim(ctx context.Context, c warmpool.Claim, want share) (warmpool.Sandbox, error) {
	done, err := s.take(ctx, want)
	if err != nil {
		return warmpool.Sandbox{}, err
	}
	defer done()
	return s.backend.Claim(ctx, c)
}

// final marks a volume's own fault: a client that asks again by itself would spend a sandbox each time and hide the reason.
func final(err error) error {
	var e *warmpool.Error
	if errors.Is(err, warmpool.ErrUnreachable) || !errors.As(err, &e) || e.RetryAfter > 0 {
		return err
	}
	marked := *e
	marked.Final = true
	return &marked
}

// undo releases what a failed create has claimed, though its request may be gone already.
func (s *Service) undo(ctx context.Context, id warmpool.ID) {
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limits.Undo)
	defer cancel()
	if err := s.backend.Release(after, id); err != nil && warmpool.CodeOf(err) != warmpool.NotFound {
		// Its deadline ends it; an operator may want to know before.
		s.logger.LogAttrs(after, slog.LevelError, "sandbox of a failed create could not be released",
			slog.String("request", RequestID(ctx)), slog.String("sandbox", string(id)), slog.Any("error", err))
	}
}
