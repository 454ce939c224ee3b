package kube

import (
	"context"
	"sync"

	"github.com/sandgate-dev/sandgate/warmpool"
)

// starts are the sandboxes that this replica has claimed and not handed out yet. It is the only one that can know: between the
// claim and the answer nothing is written. To all others a claimed sandbox is a running one, and none of them is asked for it,
// since its ID is told with the answer.
type starts struct {
	mu   sync.Mutex
	mine map[warmpool.ID]context.CancelFunc // nil until Start begins
}

func (s *starts) add(id warmpool.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mine == nil {
		s.mine = map[warmpool.ID]context.CancelFunc{}
	}
	s.mine[id] = nil
}

func (s *starts) has(id warmpool.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.mine[id]
	return ok
}

// begin says whether the caller is the one that starts the sandbox.
func (s *starts) begin(id warmpool.ID, cancel context.CancelFunc) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	under, ok := s.mine[id]
	if !ok || under != nil {
		return false
	}
	s.mine[id] = cancel
	return true
}

// drop ends a start that is under way, and says whether the sandbox was still to be handed out.
func (s *starts) drop(id warmpool.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	cancel, ok := s.mine[id]
	delete(s.mine, id)
	if cancel != nil {
		cancel()
	}
	return ok
}

// tidy forgets those that nobody has ever started.
func (s *starts) tidy(alive func(warmpool.ID) bool) {
	s.mu.Lock()
	var doubtful []warmpool.ID
	for id := range s.mine {
		doubtful = append(doubtful, id)
	}
	s.mu.Unlock()
	for _, id := range doubtful {
		if !alive(id) {
			s.drop(id)
		}
	}
}
