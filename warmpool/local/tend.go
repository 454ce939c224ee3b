package local

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/start"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

const (
	// tendPause is how often what mounts lack is looked at when nothing was seen to change; tendLast is the longest pause between two
	// attempts to give it to one that does not take it.
	tendPause, tendLast = 5 * time.Second, 30 * time.Second
	// tendTimeout bounds one attempt: the start of a client, or the answers of a store to what was signed with earlier credentials.
	tendTimeout = 15 * time.Second
	// tendAtOnce bounds the attempts at the same time. After a restart all clients of a machine may have to be started.
	tendAtOnce = 16
)

// lack is what could not be given to a mount.
type lack struct {
	why   string // for its owner to read
	which mount.Secret
	tries int
	again time.Time
}

// gave notes what a sandbox's box was asked to mount. The lock is held.
func (s *sandbox) gave(m mount.Mount) {
	if s.given == nil {
		s.given = map[string]mount.Mount{}
	}
	s.given[m.ID] = m
	delete(s.lacks, m.ID)
}

// tendMounts gives mounts the credentials that their volumes' Secrets have by now, and those that an earlier process has made all that it
// takes to put another client in the place of one that has ended: that process has taken the credentials with it. It ends with ctx.
func (b *Backend) tendMounts(ctx context.Context) {
	tick := b.cfg.Clock.NewTicker(tendPause)
	defer tick.Stop()
	turns := make(chan struct{}, tendAtOnce)
	for {
		for _, s := range b.tendable() {
			if !s.tended.TryLock() { // its last round is not over, or its end has begun
				continue
			}
			lacking := b.lacking(ctx, s)
			if len(lacking) == 0 {
				s.tended.Unlock()
				continue
			}
			b.work.Go(func() {
				defer signal(b.look) // what has changed meanwhile was not looked at
				defer s.tended.Unlock()
				b.tend(ctx, s, lacking, turns)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-b.look:
		case <-tick.C():
		}
	}
}

// tendable are the sandboxes that have mounts which nobody is making.
func (b *Backend) tendable() (out []*sandbox) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.sandboxes {
		if !s.ending && len(s.Mounted) > 0 && (s.State == warmpool.Available || s.State == warmpool.Running) && b.cfg.Reader != nil {
			out = append(out, s)
		}
	}
	return out
}

// lacking are the mounts of s that are to be given something now, as their volumes are now.
func (b *Backend) lacking(ctx context.Context, s *sandbox) (out []mount.Mount) {
	known := s.box.Known()
	b.mu.Lock()
	r, from := s.record, b.madeFrom(s.record)
	b.mu.Unlock()
	var specs []mount.Spec
	for _, m := range r.Mounts {
		if known[m.ID].Served && !r.Mounted[m.ID].IsZero() {
			specs = append(specs, m)
		}
	}
	if len(specs) == 0 {
		return nil
	}
	ms, err := volume.Resolve(ctx, b.cfg.Reader, volume.Request{
		Principal: r.Principal, Template: from, Metadata: r.Metadata, Specs: specs, Drivers: slices.Sorted(maps.Keys(b.drivers)), Default: b.cfg.Default, Node: &b.cfg.Node,
	})
	var faults mount.Faults
	if err != nil && !errors.As(err, &faults) {
		b.log.Warn("volumes cannot be looked up", "sandbox", s.ID, "error", err)
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, spec := range specs {
		if why := reasons(faults, i); why != "" {
			b.cannot(s, spec, "it cannot be mounted again: "+why)
			continue
		}
		if b.due(s, ms[i]) {
			out = append(out, ms[i])
		}
	}
	return out
}

// reasons are the faults of one mount in one line.
func reasons(faults mount.Faults, i int) string {
	var lines []string
	for _, f := range faults {
		if f.Index == i {
			lines = append(lines, f.Reason)
		}
	}
	return strings.Join(lines, "; ")
}

// cannot notes that a mount's volume is not to be had any more. One that works goes on with what it has. The lock is held.
func (b *Backend) cannot(s *sandbox, spec mount.Spec, why string) {
	_, given := s.given[spec.ID]
	if given || s.lacks[spec.ID].why == why {
		return
	}
	b.log.Info("volume of a mount that an earlier process has made cannot be looked up", "sandbox", s.ID, "mount", spec.ID, "volume", spec.Volume, "reason", why)
	s.lack(spec.ID, lack{why: why})
}

func (s *sandbox) lack(id string, l lack) {
	if s.lacks == nil {
		s.lacks = map[string]lack{}
	}
	s.lacks[id] = l
}

// due says whether a mount is to be given m now. The lock is held.
func (b *Backend) due(s *sandbox, m mount.Mount) bool {
	if had, ok := s.given[m.ID]; ok && maps.Equal(had.Secret, m.Secret) {
		delete(s.lacks, m.ID) // what could not be given is not wanted any more
		return false
	}
	l, ok := s.lacks[m.ID]
	return !ok || !maps.Equal(l.which, m.Secret) || !b.cfg.Clock.Now().Before(l.again)
}

// tend gives mounts what they lack, until the sandbox ends.
func (b *Backend) tend(ctx context.Context, s *sandbox, lacking []mount.Mount, turns chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with this round
		select {
		case <-s.dying:
			cancel()
		case <-ctx.Done():
		}
	}()
	var group errgroup.Group
	for _, m := range lacking {
		group.Go(func() error {
			select {
			case turns <- struct{}{}:
				defer func() { <-turns }()
				b.give(ctx, s, m)
			case <-ctx.Done():
			}
			return nil
		})
	}
	_ = group.Wait() // what failed is noted, and tried again
}

// give gives one mount what it lacks.
func (b *Backend) give(ctx context.Context, s *sandbox, m mount.Mount) {
	within, cancel := context.WithTimeout(ctx, tendTimeout)
	defer cancel()
	err := s.box.Refresh(within, m)
	if ctx.Err() != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.ContainsFunc(s.Mounts, func(have mount.Spec) bool { return have.ID == m.ID }) {
		return // it was taken away meanwhile
	}
	if err != nil {
		b.ungiven(s, m, err)
		return
	}
	_, renewed := s.given[m.ID]
	s.gave(m)
	s.looked = time.Time{}
	if renewed {
		b.log.Info("mount has the new credentials of its volume", "sandbox", s.ID, "mount", m.ID, "volume", m.Volume)
	}
}

// ungiven notes that a mount has not taken what it was given. The lock is held.
func (b *Backend) ungiven(s *sandbox, m mount.Mount, err error) {
	why := start.Message(start.Mounted(m, err))
	if errors.Is(err, node.ErrConflict) {
		why = "its volume is set up otherwise than when it was mounted; unmount it, and mount it again"
	}
	l := s.lacks[m.ID]
	if l.why != why {
		b.log.Warn("mount keeps what it has of its volume; it is tried again", "sandbox", s.ID, "mount", m.ID, "volume", m.Volume, "reason", why, "error", err)
	}
	if !maps.Equal(l.which, m.Secret) {
		l.tries = 0
	}
	pause := min(tendPause<<min(l.tries, 10), tendLast)
	s.lack(m.ID, lack{why: why, which: m.Secret, tries: l.tries + 1, again: b.cfg.Clock.Now().Add(pause)})
}
