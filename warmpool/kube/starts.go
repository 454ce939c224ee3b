package kube

import (
	"context"
	"sync"
	"time"

	"github.com/sandgate-dev/sandgate/warmpool"
)

// starts are the sandboxes that this replica has claimed and not handed out yet. It is the only one that can know: between the
// claim and the answer nothing is written. To all others a claimed sandbox is a running one, and none of them is asked for it,
// since its ID is told with the answer.
type starts struct {
	now func() time.Time

	mu   sync.Mutex
	mine map[warmpool.ID]*begun
}

// begun is a sandbox between its claim and the answer.
type begun struct {
	at     time.Time
	cancel context.CancelFunc // nil until Start begins
}

func (s *starts) add(id warmpool.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mine[id] = &begun{at: s.now()}
}

func (s *starts) has(id warmpool.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mine[id] != nil
}

// begin says whether the caller is the one that starts the sandbox.
func (s *starts) begin(id warmpool.ID, cancel context.CancelFunc) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.mine[id]
	if b == nil || b.cancel != nil {
		return false
	}
	b.cancel = cancel
	return true
}

// drop ends a start that is under way, and says whether the sandbox was still to be handed out.
func (s *starts) drop(id warmpool.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.mine[id]
	delete(s.mine, id)
	if b != nil && b.cancel != nil {
		b.cancel()
	}
	return b != nil
}

// tidy forgets those that nobody has ever started and that are no more.
func (s *starts) tidy(before time.Time, alive func(warmpool.ID) bool) {
	s.mu.Lock()
	var doubtful []warmpool.ID
	for id, b := range s.mine {
		if b.at.Before(before) {
			doubtful = append(doubtful, id)
		}
	}
	s.mu.Unlock()
	for _, id := range doubtful {
		if !alive(id) {
			s.drop(id)
		}
	}
}
