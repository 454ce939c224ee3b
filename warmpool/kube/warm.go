package kube

import (
	"context"
	"sync"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// warmer connects to stock ahead of time, a few at once.
type warmer struct {
	fitter *Fitter
	queue  chan *v1alpha1.Sandbox
	most   int
}

const warmers = 4

func newWarmer(most int, f *Fitter) *warmer {
	return &warmer{fitter: f, queue: make(chan *v1alpha1.Sandbox, max(most, 1)), most: most}
}

// add asks for a connection. Where too many are asked for at once, some are opened only when they are needed.
func (w *warmer) add(sb *v1alpha1.Sandbox) {
	if w.most == 0 {
		return
	}
	select {
	case w.queue <- sb:
	default:
	}
}

// run connects until ctx ends.
func (w *warmer) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for range warmers {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case sb := <-w.queue:
					w.fitter.Warm(ctx, sb)
				}
			}
		})
	}
}
