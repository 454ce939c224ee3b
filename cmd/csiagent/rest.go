//go:build linux

package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"
)

// frugal makes this process one that mostly waits: one of these sits in every sandbox's pod, and should cost as little.
func frugal() {
	debug.SetGCPercent(20)
	runtime.GOMAXPROCS(min(runtime.GOMAXPROCS(0), 2)) // each has memory of its own, and nodes have many
}

// restTime is how long memory may be kept that was needed for a moment.
const restTime = time.Minute

// rest gives back, until ctx ends, what the last publishes needed. The runtime keeps a good part of it for the next, which may never come.
func rest(ctx context.Context) error {
	tick := time.NewTicker(restTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			debug.FreeOSMemory()
		}
	}
}
