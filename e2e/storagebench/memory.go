//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// rest is a little longer than the time after which an agent gives back what it needed for a moment.
const rest = 70 * time.Second

// memory says what the agent and its clients hold with as many mounts as a sandbox may have, after all that was measured before.
func memory(ctx context.Context, s *stage) (err error) {
	var all []mount.Mount
	for i := range mount.DefaultMaxMounts {
		name := fmt.Sprintf("memory-%d", i)
		switch i % 4 {
		case 0:
			all = append(all, s.bucket(name))
		case 1:
			all = append(all, s.host(name))
		default:
			all = append(all, s.memory(name))
		}
	}
	for _, m := range all {
		if _, err := s.publish(ctx, m); err != nil {
			return err
		}
	}
	defer func() {
		for _, m := range all {
			err = errors.Join(err, s.drop(ctx, m))
		}
	}()
	busy, err := rss(s.server.Process.Pid)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(rest):
	}
	idle, err := rss(s.server.Process.Pid)
	if err != nil {
		return err
	}
	pids, err := s.clients()
	if err != nil {
		return err
	}
	total := 0.0
	for _, pid := range pids {
		one, err := rss(pid)
		if err != nil {
			return err
		}
		total += one
	}
	fmt.Printf("%-52s %5s  %.1f MiB right after the last publish, %.1f MiB after %s at rest  aim: %s\n",
		fmt.Sprintf("resident memory of the agent with %d mounts", len(all)), "1", busy, idle, rest, within("MiB at rest", idle, 15))
	note("and %.1f MiB for each of its %d s3fs", total/float64(max(1, len(pids))), len(pids))
	return nil
}

// rss is the resident memory of a process in MiB.
func rss(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kib); err == nil {
			return kib / 1024, nil
		}
	}
	return 0, fmt.Errorf("process %d has no memory any more", pid)
}
