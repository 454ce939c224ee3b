package world

import (
	"context"
	"fmt"
	"time"
)

// Stocked waits until so many unclaimed sandboxes run: every one has an envd of its own.
func (w *World) Stocked(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		pids, err := w.Processes("envd")
		if err != nil || len(pids) >= n {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the pool has %d of %d sandboxes: %w", len(pids), n, ctx.Err())
		case <-tick.C:
		}
	}
}
