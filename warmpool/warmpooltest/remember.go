package warmpooltest

import (
	"context"
	"sync"

	"github.com/sandgate-dev/sandgate/warmpool"
)

// Remembering is a Memory that makes requests with an Idempotency-Key once.
type Remembering struct {
	*Memory

	mu      sync.Mutex
	records map[string]*record
}

type record struct {
	request string
	made    warmpool.ID // empty while it is being made
}

// Remember implements the gateway's ability.
func (r *Remembering) Remember(_ context.Context, p warmpool.Principal, key, request string) (warmpool.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := p.Team + "\n" + p.Key + "\n" + key
	switch have := r.records[name]; {
	case have == nil:
	case have.request != request:
		return warmpool.Record{}, warmpool.Errorf(warmpool.Mismatch, "this Idempotency-Key was used for another request")
	case have.made == "":
		return warmpool.Record{}, warmpool.Errorf(warmpool.Conflict, "a request with this Idempotency-Key is being served")
	default:
		return warmpool.Record{Made: have.made}, nil
	}
	if r.records == nil {
		r.records = map[string]*record{}
	}
	mine := &record{request: request}
	r.records[name] = mine
	return warmpool.Record{
		Keep: func(_ context.Context, id warmpool.ID) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			mine.made = id
			return nil
		},
		Forget: func(context.Context) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			delete(r.records, name)
			return nil
		},
	}, nil
}
