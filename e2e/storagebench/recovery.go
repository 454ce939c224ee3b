//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// pause is the time between two reads of one reader.
const pause = time.Millisecond

// selfPatience is how long an agent gets to heal a volume by itself, once; after that it is asked.
const selfPatience = 3 * time.Second

// recovery kills the client of a volume that is being read, and measures until it can be read again. Each time it is another volume: one
// whose client dies again and again has to wait.
func recovery(ctx context.Context, s *stage) error {
	alone, err := s.healsAlone(ctx)
	if err != nil {
		return err
	}
	var took []time.Duration
	var failed int
	for i := range max(10, s.cfg.n/5) {
		o, err := s.death(ctx, fmt.Sprintf("heal-%d", i), alone)
		if err != nil {
			return err
		}
		took = append(took, o.lasted)
		failed += o.failed
	}
	how := "once the agent is asked to"
	if alone {
		how = "by the agent itself"
	}
	row("killed s3fs: read again, "+how, took, within("p50", p50(took), 100*time.Millisecond))
	note("%d readers, one open and read per %s each; %.0f reads of each kill failed, and no reader had to be started again", readers, pause, float64(failed)/float64(len(took)))
	if !alone {
		note("without being asked it does nothing: the time until somebody asks comes on top")
	}
	return nil
}

// watched is a volume with a file in it, and what reads that.
func (s *stage) watched(ctx context.Context, name string) (mount.Mount, func() error, error) {
	m, file := s.bucket(name), s.path(name, "read-me")
	read := func() error {
		text, err := os.ReadFile(file)
		if err == nil && string(text) != "kept" {
			err = fmt.Errorf("read %q", text)
		}
		return err
	}
	if _, err := s.publish(ctx, m); err != nil {
		return m, nil, err
	}
	return m, read, os.WriteFile(file, []byte("kept"), 0o600)
}

func (s *stage) death(ctx context.Context, name string, alone bool) (outage, error) {
	m, read, err := s.watched(ctx, name)
	if err != nil {
		return outage{}, err
	}
	o, err := s.outage(ctx, read, func() error {
		if alone {
			return s.kill()
		}
		return errors.Join(s.kill(), s.agent.Publish(ctx, m))
	})
	return o, errors.Join(err, s.drop(ctx, m))
}

// healsAlone tries once whether a killed client is replaced without a request.
func (s *stage) healsAlone(ctx context.Context) (bool, error) {
	m, read, err := s.watched(ctx, "alone")
	if err != nil {
		return false, err
	}
	if err := s.kill(); err != nil {
		return false, err
	}
	within, cancel := context.WithTimeout(ctx, selfPatience)
	defer cancel()
	alone := poll(within, func() bool { return read() == nil }) == nil
	if err := s.drop(ctx, m); err != nil && alone { // a dead one is taken away with the word that data may be missing
		return false, err
	}
	return alone, nil
}

// kill kills the one client there is and returns when it is dead.
func (s *stage) kill() error {
	pid, err := s.client()
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return err
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
		switch {
		case errors.Is(err, unix.EINTR):
		case err == nil && n == 0:
			return fmt.Errorf("process %d was killed and does not end", pid)
		default:
			return err
		}
	}
}

// readers are how many read at once.
const readers = 4

// outage is what readers saw of one.
type outage struct {
	lasted time.Duration // from the blow until the last of them read again
	failed int           // reads, of all of them
}

// outage deals a blow while readers read, and waits until each of them has failed and then read again.
func (s *stage) outage(ctx context.Context, read, blow func() error) (outage, error) {
	within, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var failed atomic.Int64
	var struck atomic.Bool
	again := make([]time.Time, readers)
	var group errgroup.Group
	for i := range readers {
		group.Go(func() error {
			tick := time.NewTicker(pause)
			defer tick.Stop()
			for down := false; ; {
				err := read()
				switch {
				case err != nil && !struck.Load():
					return fmt.Errorf("before the blow: %w", err)
				case err != nil:
					down = true
					failed.Add(1)
				case down:
					again[i] = time.Now()
					return nil
				}
				select {
				case <-within.Done():
					return fmt.Errorf("not read again (failed before: %t): %w", down, errors.Join(within.Err(), err))
				case <-tick.C:
				}
			}
		})
	}
	struck.Store(true)
	begin := time.Now()
	err := errors.Join(blow(), group.Wait())
	o := outage{failed: int(failed.Load())}
	for _, at := range again {
		o.lasted = max(o.lasted, at.Sub(begin))
	}
	return o, err
}
