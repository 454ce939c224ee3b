package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/sandgate-dev/sandgate/warmpool"
)

// maxKey bounds an Idempotency-Key, as others do who take them.
const maxKey = 255

// createOnce makes what c asks for, unless a request with the same key has made it already.
func (s *Service) createOnce(ctx context.Context, c warmpool.Claim) (warmpool.Sandbox, error) {
	memory, ok := s.backend.(Rememberer)
	switch {
	case !ok:
		return warmpool.Sandbox{}, warmpool.Errorf(warmpool.Unsupported,
			"this gateway does not support Idempotency-Key; a repeated create makes another sandbox")
	case len(c.IdempotencyKey) > maxKey:
		return warmpool.Sandbox{}, warmpool.Errorf(warmpool.Invalid, "Idempotency-Key must be at most %d bytes", maxKey)
	}
	request, err := digest(c)
	if err != nil {
		return warmpool.Sandbox{}, err
	}
	record, err := memory.Remember(ctx, c.Principal, c.IdempotencyKey, request)
	if err != nil {
		return warmpool.Sandbox{}, coded(err)
	}
	if record.Made != "" {
		sb, err := s.Get(ctx, c.Principal, record.Made)
		if warmpool.CodeOf(err) == warmpool.NotFound {
			return warmpool.Sandbox{}, warmpool.Errorf(warmpool.Conflict, "the sandbox that this Idempotency-Key has made is gone; use another key")
		}
		return sb, err
	}
	sb, err := s.create(ctx, c)
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limits.Undo)
	defer cancel()
	if err != nil {
		s.forget(after, record)
		return warmpool.Sandbox{}, err
	}
	if err := record.Keep(after, sb.ID); err != nil {
		s.undo(ctx, sb.ID)
		s.forget(after, record)
		return warmpool.Sandbox{}, &warmpool.Error{Code: warmpool.Unavailable, Message: "the create could not be remembered; try again", Err: err}
	}
	return sb, nil
}

// forget lets a retry of a failed create begin anew. Where that fails, it can begin once the record is too old to be alive.
func (s *Service) forget(ctx context.Context, record warmpool.Record) {
	if err := record.Forget(ctx); err != nil {
		s.logger.LogAttrs(ctx, slog.LevelWarn, "record of a failed create could not be removed",
			slog.String("request", RequestID(ctx)), slog.Any("error", err))
	}
}

// digest is a name for what c asks for, whoever asks and in whatever order and form the request said it.
func digest(c warmpool.Claim) (string, error) {
	c.Principal, c.IdempotencyKey = warmpool.Principal{}, ""
	text, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("digest of a claim: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}
