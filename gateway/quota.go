package gateway

import (
	"context"
	"slices"
	"sync"

	"github.com/sandgate-dev/sandgate/warmpool"
)

// TeamLimits bound what a team may have at a time over all its sandboxes; 0 is no bound. What this gateway has under way counts with what
// the backend knows, so that one gateway never exceeds them. Of several, each knows what the others have claimed once it has heard of it:
// together they may exceed a limit by what the others have begun in that time.
type TeamLimits struct {
	// Mounts is how many mounts a team may have.
	Mounts int
	// Mounted is how many sandboxes with mounts it may have.
	Mounted int
}

// quota holds teams to their limits.
type quota struct {
	limits TeamLimits

	mu       sync.Mutex
	underway map[*share]struct{}
}

// share is what a request under way will add to its team's.
type share struct {
	team   string
	mounts int
	// Of a mount into a running sandbox, which does not count any more once it is known there. Others are of a sandbox to come.
	sandbox warmpool.ID
	mount   string
}

// take admits a request, or says that the team has enough. done is to be called when what was admitted is known to the backend, or was given
// up.
func (s *Service) take(ctx context.Context, want share) (done func(), err error) {
	q := &s.quota
	if q.limits == (TeamLimits{}) || want.mounts == 0 {
		return func() {}, nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	has, err := s.backend.List(ctx, warmpool.Filter{Team: want.team})
	if err != nil {
		return nil, err
	}
	if want.known(has) {
		return func() {}, nil
	}
	mounts, made := 0, 0
	mounted := map[warmpool.ID]bool{}
	for _, sb := range has {
		if mounts += len(sb.Mounts); len(sb.Mounts) > 0 {
			mounted[sb.ID] = true
		}
	}
	for other := range q.underway {
		if other.team != want.team || other.known(has) {
			continue
		}
		if mounts += other.mounts; other.sandbox == "" {
			made++
		} else {
			mounted[other.sandbox] = true
		}
	}
	sandboxes := made + len(mounted)
	switch {
	case q.limits.Mounts > 0 && mounts+want.mounts > q.limits.Mounts:
		return nil, enough("a team may have %d mounts at a time and yours has %d; unmount volumes or end sandboxes first", q.limits.Mounts, mounts)
	case q.limits.Mounted > 0 && !mounted[want.sandbox] && sandboxes >= q.limits.Mounted:
		return nil, enough("a team may have %d sandboxes with volumes at a time and yours has %d; end one first", q.limits.Mounted, sandboxes)
	}
	if q.underway == nil {
		q.underway = map[*share]struct{}{}
	}
	q.underway[&want] = struct{}{}
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.underway, &want)
	}, nil
}

// known says whether a mount into a running sandbox is among those that the backend tells of.
func (s *share) known(has []warmpool.Sandbox) bool {
	return s.mount != "" && slices.ContainsFunc(has, func(sb warmpool.Sandbox) bool {
		return sb.ID == s.sandbox && slices.ContainsFunc(sb.Mounts, func(m warmpool.MountStatus) bool { return m.ID == s.mount })
	})
}

// enough is final: nothing but the team itself makes room.
func enough(format string, args ...any) error {
	e := warmpool.Error{Code: warmpool.Exhausted, Final: true}
	e.Message = warmpool.Errorf(warmpool.Exhausted, format, args...).Error()
	return &e
}
