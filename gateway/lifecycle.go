package gateway

import (
	"cmp"
	"context"
	"encoding/base64"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sandgate-dev/sandgate/warmpool"
)

// Get returns a running sandbox of the principal's team. One that is unknown, of another team, not handed out yet or ended
// is the same NotFound.
func (s *Service) Get(ctx context.Context, p warmpool.Principal, id warmpool.ID) (warmpool.Sandbox, error) {
	sb, err := s.own(ctx, p, id)
	if err != nil || sb.State != warmpool.Running {
		return warmpool.Sandbox{}, notFoundOr(err, id)
	}
	return sb, nil
}

// reread is what Get has returned, as it is now, where the backend can tell.
func (s *Service) reread(ctx context.Context, p warmpool.Principal, sb warmpool.Sandbox) (warmpool.Sandbox, error) {
	again, ok := s.backend.(Rereader)
	if !ok {
		return sb, nil
	}
	now, err := again.Reread(ctx, sb.ID)
	if err != nil || now.Principal.Team != p.Team || now.State != warmpool.Running {
		return warmpool.Sandbox{}, notFoundOr(err, sb.ID)
	}
	return now, nil
}

// own returns a sandbox of the principal's team in whatever state.
func (s *Service) own(ctx context.Context, p warmpool.Principal, id warmpool.ID) (warmpool.Sandbox, error) {
	sb, err := s.backend.Get(ctx, id)
	if err != nil || sb.Principal.Team != p.Team {
		return warmpool.Sandbox{}, notFoundOr(err, id)
	}
	return sb, nil
}

// notFoundOr makes every way of not finding a sandbox read the same.
func notFoundOr(err error, id warmpool.ID) error {
	if err == nil || warmpool.CodeOf(err) == warmpool.NotFound {
		return warmpool.Errorf(warmpool.NotFound, "sandbox %s not found", id)
	}
	return coded(err)
}

// Connect returns a running sandbox and makes it live for at least another timeout; it never shortens.
func (s *Service) Connect(ctx context.Context, p warmpool.Principal, id warmpool.ID, timeout time.Duration) (warmpool.Sandbox, error) {
	if err := s.checkTimeout(timeout); err != nil {
		return warmpool.Sandbox{}, err
	}
	return s.moveEnd(ctx, "connect", p, id, warmpool.Deadline{At: s.clock.Now().Add(timeout), OnlyLater: true})
}

// SetTimeout makes a sandbox end a timeout from now, which may be sooner than before; zero ends it now.
func (s *Service) SetTimeout(ctx context.Context, p warmpool.Principal, id warmpool.ID, timeout time.Duration) error {
	if timeout != 0 {
		if err := s.checkTimeout(timeout); err != nil {
			return err
		}
	}
	_, err := s.moveEnd(ctx, "timeout", p, id, warmpool.Deadline{At: s.clock.Now().Add(timeout)})
	return err
}

// Refresh makes a sandbox live for at least another d; it never shortens.
func (s *Service) Refresh(ctx context.Context, p warmpool.Principal, id warmpool.ID, d time.Duration) error {
	if d < 0 || d > s.limits.MaxTimeout {
		return warmpool.Errorf(warmpool.Invalid, "duration must be between 0 and %d seconds", int(s.limits.MaxTimeout.Seconds()))
	}
	_, err := s.moveEnd(ctx, "refresh", p, id, warmpool.Deadline{At: s.clock.Now().Add(d), OnlyLater: true})
	return err
}

func (s *Service) moveEnd(ctx context.Context, action string, p warmpool.Principal, id warmpool.ID, d warmpool.Deadline) (warmpool.Sandbox, error) {
	sb, err := s.Get(ctx, p, id)
	if err == nil {
		if sb, err = s.backend.SetDeadline(ctx, id, d); err != nil {
			err = notFoundOr(err, id)
		}
	}
	s.audit(ctx, action, p, id, err, slog.Time("until", sb.EndAt))
	if err != nil {
		return warmpool.Sandbox{}, err
	}
	return sb, nil
}

// Kill ends a sandbox, also one that has failed. Once begun it is not given up when the caller leaves.
func (s *Service) Kill(ctx context.Context, p warmpool.Principal, id warmpool.ID) error {
	err := s.kill(ctx, p, id)
	s.audit(ctx, "kill", p, id, err)
	return err
}

func (s *Service) kill(ctx context.Context, p warmpool.Principal, id warmpool.ID) error {
	if _, err := s.own(ctx, p, id); err != nil {
		return err
	}
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limits.Undo)
	defer cancel()
	if err := s.backend.Release(after, id); err != nil {
		return notFoundOr(err, id)
	}
	return nil
}

// Usage is what a sandbox uses. Unsupported where the backend cannot tell.
func (s *Service) Usage(ctx context.Context, p warmpool.Principal, id warmpool.ID) ([]warmpool.Usage, error) {
	meter, ok := s.backend.(Meter)
	if !ok {
		return nil, warmpool.Errorf(warmpool.Unsupported, "this installation does not measure sandboxes")
	}
	if _, err := s.Get(ctx, p, id); err != nil {
		return nil, err
	}
	samples, err := meter.Usage(ctx, id)
	if err != nil {
		return nil, notFoundOr(err, id)
	}
	return samples, nil
}

// Query chooses and orders the sandboxes of one team.
type Query struct {
	Template     string
	Metadata     map[string]string
	StartedAfter time.Time // at or after
	OldestFirst  bool
	Limit        int    // 0 means all
	Cursor       string // Page.Next of the page before
}

// Page is a part of a list.
type Page struct {
	Sandboxes []warmpool.Sandbox
	Next      string // cursor of the page after it, empty for the last one
	Total     int    // of all pages
}

// List returns the principal's running sandboxes by start and ID, newest first unless asked otherwise. Sandboxes that come or
// go between two pages neither repeat nor hide the others.
func (s *Service) List(ctx context.Context, p warmpool.Principal, q Query) (Page, error) {
	after, err := parseCursor(q.Cursor)
	if err != nil {
		return Page{}, err
	}
	all, err := s.backend.List(ctx, warmpool.Filter{
		Team: p.Team, Template: q.Template, Metadata: q.Metadata, States: []warmpool.State{warmpool.Running},
	})
	if err != nil {
		return Page{}, coded(err)
	}
	all = slices.DeleteFunc(all, func(sb warmpool.Sandbox) bool {
		return sb.Principal.Team != p.Team || sb.StartedAt.Before(q.StartedAfter)
	})
	order := func(a, b position) int {
		if q.OldestFirst {
			return a.compare(b)
		}
		return b.compare(a)
	}
	slices.SortFunc(all, func(a, b warmpool.Sandbox) int { return order(positionOf(a), positionOf(b)) })
	page := Page{Total: len(all)}
	if q.Cursor != "" {
		begin := slices.IndexFunc(all, func(sb warmpool.Sandbox) bool { return order(positionOf(sb), after) > 0 })
		if begin < 0 {
			begin = len(all)
		}
		all = all[begin:]
	}
	if q.Limit > 0 && len(all) > q.Limit {
		all = all[:q.Limit]
		page.Next = positionOf(all[q.Limit-1]).cursor()
	}
	page.Sandboxes = all
	return page, nil
}

// position is a sandbox's place in the order of lists.
type position struct {
	at int64
	id warmpool.ID
}

func positionOf(sb warmpool.Sandbox) position { return position{sb.StartedAt.UnixNano(), sb.ID} }

func (p position) compare(other position) int {
	return cmp.Or(cmp.Compare(p.at, other.at), cmp.Compare(p.id, other.id))
}

func (p position) cursor() string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(p.at, 10) + "/" + string(p.id)))
}

func parseCursor(s string) (position, error) {
	if s == "" {
		return position{}, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(s)
	at, id, _ := strings.Cut(string(raw), "/")
	n, numErr := strconv.ParseInt(at, 10, 64)
	parsed, ok := warmpool.ParseID(id)
	if err != nil || numErr != nil || !ok {
		return position{}, warmpool.Errorf(warmpool.Invalid, "nextToken must be the X-Next-Token of the page before")
	}
	return position{n, parsed}, nil
}
