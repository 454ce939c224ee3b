package process

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"
)

// Reap collects the exit of processes that are this one's children but were not started by it: a container's first
// process inherits those whose parents died. It returns when ctx ends.
func (s *Service) Reap(ctx context.Context) {
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	defer signal.Stop(died)
	for {
		s.reapOrphans(os.Getpid())
		select {
		case <-ctx.Done():
			return
		case <-died:
		}
	}
}

// reapOrphans collects dead children of parent that no proc waits for. The lock keeps a child that was forked this
// moment from being taken for an orphan.
func (s *Service) reapOrphans(parent int) (reaped int) {
	s.forking.Lock()
	defer s.forking.Unlock()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !deadChild(pid, parent) || s.owns(uint32(pid)) {
			continue
		}
		if _, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err == nil || errors.Is(err, unix.ECHILD) {
			reaped++
		}
	}
	return reaped
}

func (s *Service) owns(pid uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.running[pid]
	return ok && !p.gone()
}

func deadChild(pid, parent int) bool {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	f := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:])
	return len(f) > 1 && f[0][0] == 'Z' && string(f[1]) == strconv.Itoa(parent)
}
