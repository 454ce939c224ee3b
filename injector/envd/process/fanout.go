package process

import (
	"context"
	"slices"
	"sync"

	"github.com/sandgate-dev/sandgate/injector/envd/process/processpb"
)

// backlog is how many chunks wait for one slow client. When it is full the reader of the pipe waits, then the pipe
// fills, then the process itself waits: memory stays bounded and nothing is lost.
const backlog = 8

type subscriber struct {
	events chan *processpb.ProcessEvent
	gone   <-chan struct{}
}

// fanout hands each event to every subscriber, in order.
type fanout struct {
	mu   sync.Mutex
	subs []*subscriber // replaced, never changed in place
}

func (f *fanout) subscribe(ctx context.Context) *subscriber {
	sub := &subscriber{events: make(chan *processpb.ProcessEvent, backlog), gone: ctx.Done()}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subs = append(slices.Clone(f.subs), sub)
	return sub
}

// unsubscribe is called when the subscriber's context ends, at the latest.
func (f *fanout) unsubscribe(sub *subscriber) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subs = slices.DeleteFunc(slices.Clone(f.subs), func(s *subscriber) bool { return s == sub })
}

func (f *fanout) current() []*subscriber {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.subs
}

// publish returns when every subscriber has taken the event or is gone. With none it is dropped.
func (f *fanout) publish(e *processpb.ProcessEvent) {
	for _, s := range f.current() {
		select {
		case s.events <- e:
		case <-s.gone:
		}
	}
}
