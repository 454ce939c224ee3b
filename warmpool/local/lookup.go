package local

import (
	"context"
	"net"
	"slices"
	"time"

	"github.com/sandgate-dev/sandgate/warmpool"
)

const (
	// lookTimeout bounds the look at the mounts of a sandbox that is asked for, lookAge is how long it is good for.
	lookTimeout = time.Second
	lookAge     = time.Second
)

// Get returns a claimed sandbox, with what is true of its mounts now.
func (b *Backend) Get(ctx context.Context, id warmpool.ID) (warmpool.Sandbox, error) {
	if err := b.ready(ctx); err != nil {
		return warmpool.Sandbox{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sandboxes[id]
	if s == nil || !s.claimed() {
		return warmpool.Sandbox{}, codeless(id)
	}
	if s.State == warmpool.Running && len(s.Mounts) > 0 && b.cfg.Clock.Since(s.looked) >= lookAge {
		b.mu.Unlock()
		within, cancel := context.WithTimeout(ctx, lookTimeout)
		healths := s.box.Look(within)
		cancel()
		b.mu.Lock()
		if s.ending {
			return warmpool.Sandbox{}, codeless(id)
		}
		s.faults, s.seen, s.looked = map[string]string{}, healths, b.cfg.Clock.Now()
		for id, h := range healths {
			if !h.Works() {
				s.faults[id] = h.Message
			}
		}
	}
	return b.view(s), nil
}

// List returns the claimed sandboxes that the filter chooses.
func (b *Backend) List(ctx context.Context, f warmpool.Filter) ([]warmpool.Sandbox, error) {
	if err := b.ready(ctx); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []warmpool.Sandbox
	for _, s := range b.sandboxes {
		if s.claimed() && s.matches(f) {
			out = append(out, b.view(s))
		}
	}
	return out, nil
}

func (s *sandbox) matches(f warmpool.Filter) bool {
	switch {
	case f.Team != "" && f.Team != s.Principal.Team,
		f.Template != "" && f.Template != s.Template && !slices.Contains(s.Aliases, f.Template),
		len(f.States) > 0 && !slices.Contains(f.States, s.State):
		return false
	}
	for k, v := range f.Metadata {
		if got, ok := s.Metadata[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// SetDeadline moves a sandbox's end.
func (b *Backend) SetDeadline(ctx context.Context, id warmpool.ID, d warmpool.Deadline) (warmpool.Sandbox, error) {
	if err := b.ready(ctx); err != nil {
		return warmpool.Sandbox{}, err
	}
	b.mu.Lock()
	s := b.sandboxes[id]
	if s == nil || !s.claimed() {
		b.mu.Unlock()
		return warmpool.Sandbox{}, codeless(id)
	}
	if !d.OnlyLater || d.At.After(s.EndAt) {
		s.EndAt = d.At
	}
	view := b.view(s)
	b.mu.Unlock()
	if err := b.persist(s); err != nil {
		return warmpool.Sandbox{}, &warmpool.Error{Code: warmpool.Unavailable, Message: "the new end could not be kept; try again", Err: err}
	}
	b.poke()
	return view, nil
}

// Route is the way to the ports of a running sandbox.
func (b *Backend) Route(ctx context.Context, id warmpool.ID) (warmpool.Route, error) {
	if err := b.ready(ctx); err != nil {
		return warmpool.Route{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sandboxes[id]
	if s == nil || !s.claimed() || s.State != warmpool.Running {
		return warmpool.Route{}, codeless(id)
	}
	box := s.box
	return warmpool.Route{
		Dial: func(ctx context.Context, port uint16) (net.Conn, error) { return box.Dial(ctx, port) },
		Gone: box.Gone(),
	}, nil
}
