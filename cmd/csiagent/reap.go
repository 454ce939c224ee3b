//go:build linux

package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// reapTime is how long an ended child may stay before it is taken for an orphan. Whoever has started one here waits for it.
const reapTime = 20 * time.Second

// reap collects, until ctx ends, ended processes that nobody here has started: the first process of a container inherits those that a
// plugin's FUSE clients leave.
func reap(ctx context.Context) error {
	tick := time.NewTicker(reapTime)
	defer tick.Stop()
	for seen := map[int]bool{}; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			seen = collect(seen)
		}
	}
}

// collect reaps the ended children that were seen before, and returns the others.
func collect(seen map[int]bool) map[int]bool {
	now := map[int]bool{}
	for _, pid := range zombies() {
		if !seen[pid] {
			now[pid] = true
			continue
		}
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
	}
	return now
}

func zombies() (out []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// State and parent follow the name, which may hold anything.
		fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if len(fields) < 2 || string(fields[0]) != "Z" || string(fields[1]) != strconv.Itoa(os.Getpid()) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			out = append(out, pid)
		}
	}
	return out
}
