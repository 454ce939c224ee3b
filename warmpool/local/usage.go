package local

import (
	"context"
	"slices"
	"time"

	"github.com/sandgate-dev/sandgate/warmpool"
)

const (
	// samplePause is the time between two samples of a claimed sandbox; keepSamples bounds its history.
	samplePause = 5 * time.Second
	keepSamples = 120
)

// Usage returns the samples of the last ten minutes, oldest first.
func (b *Backend) Usage(ctx context.Context, id warmpool.ID) ([]warmpool.Usage, error) {
	if err := b.ready(ctx); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sandboxes[id]
	if s == nil || !s.claimed() {
		return nil, codeless(id)
	}
	return slices.Clone(s.history), nil
}

// watchUsage samples the running sandboxes until ctx ends.
func (b *Backend) watchUsage(ctx context.Context) {
	tick := b.cfg.Clock.NewTicker(samplePause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C():
			for _, s := range b.running() {
				b.measure(s)
			}
		}
	}
}

func (b *Backend) running() (out []*sandbox) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.sandboxes {
		if s.claimed() && s.State == warmpool.Running {
			out = append(out, s)
		}
	}
	return out
}

func (b *Backend) measure(s *sandbox) {
	got, err := s.box.Usage()
	if err != nil {
		return // it is being ended; there is nothing to tell of it
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	u := warmpool.Usage{
		At: b.cfg.Clock.Now(), CPUCount: s.Resources.CPUCount, MemUsed: got.memory, MemCache: got.cache,
		MemTotal: int64(s.Resources.MemoryMB) << 20, DiskUsed: got.diskUsed, DiskTotal: got.diskTotal,
	}
	if n := len(s.history); n > 0 {
		if elapsed := u.At.Sub(s.history[n-1].At); elapsed > 0 {
			u.CPUPercent = 100 * float64(got.cpu-s.last.cpu) / float64(elapsed) / float64(u.CPUCount)
		}
	}
	s.last = got
	if len(s.history) == keepSamples {
		s.history = slices.Delete(s.history, 0, 1)
	}
	s.history = append(s.history, u)
}
