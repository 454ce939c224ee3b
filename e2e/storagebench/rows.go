//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/driver/tmpfs"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// attachment measures putting a volume that is up into the sandbox, alone: the clone and the attach. It takes as long for every kind.
func attachment(ctx context.Context, s *stage) error {
	handle, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", s.box.Process.Pid))
	if err != nil {
		return err
	}
	space, err := attach.NewNamespace(handle, attach.NewThreads(attach.DefaultThreads))
	if err != nil {
		return err
	}
	defer func() { _ = space.Close() }()
	m := s.memory("attach")
	volume, err := (&tmpfs.Driver{}).Mount(ctx, m, "")
	if err != nil {
		return err
	}
	defer func() { _ = volume.Root.Close() }()
	var took []time.Duration
	for range 5 * s.cfg.n {
		var id uint64
		t, err := timed(func() (err error) {
			id, err = place(ctx, space, volume.Root, m.Target)
			return err
		})
		if err == nil {
			err = space.Detach(ctx, m.Target, id, false)
		}
		if err != nil {
			return err
		}
		took = append(took, t)
	}
	row("attach alone", took, within("p50", p50(took), time.Millisecond))
	return nil
}

func place(ctx context.Context, space *attach.Namespace, root *os.File, target string) (uint64, error) {
	tree, err := attach.Clone(root, attach.CloneOptions{})
	if err != nil {
		return 0, err
	}
	defer func() { _ = tree.Close() }()
	return space.Attach(ctx, tree, target, attach.AttachOptions{})
}

// readiness measures a publish from the request to the answer, and what of it is the client's own start.
func readiness(ctx context.Context, s *stage) error {
	published := func(m mount.Mount) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			took, err := s.publish(ctx, m)
			return took, errors.Join(err, s.drop(ctx, m))
		}
	}
	args, err := s.learn(ctx)
	if err != nil {
		return err
	}
	dir := filepath.Join(s.dir, "outside")
	byHand := func() (time.Duration, error) {
		var o *outsider
		took, err := timed(func() (err error) {
			o, err = s.outside(ctx, args, dir)
			return err
		})
		if err != nil {
			return 0, err
		}
		return took, o.end()
	}
	got, err := inTurns(s.cfg.n, published(s.memory("mem")), published(s.host("host")), published(s.bucket("oss")), byHand)
	if err != nil {
		return err
	}
	row("tmpfs volume ready", got[0], "")
	row("host-path volume ready", got[1], "")
	row("s3fs volume ready", got[2], within("p50", p50(got[2]), 100*time.Millisecond))
	row("s3fs alone, by hand, until it can be read", got[3], "")
	note("an s3fs volume is %.0f %% s3fs: its start and its first listing", 100*times(p50(got[3]), p50(got[2])))
	return nil
}

// learn is how the agent starts a client.
func (s *stage) learn(ctx context.Context) ([]string, error) {
	m := s.bucket("learn")
	if _, err := s.publish(ctx, m); err != nil {
		return nil, err
	}
	pid, err := s.client()
	if err != nil {
		return nil, errors.Join(err, s.drop(ctx, m))
	}
	args, err := s.arguments(pid, filepath.Join(s.dir, "outside"))
	return args, errors.Join(err, s.drop(ctx, m))
}

const several = 6

// parallel compares six volumes at once with one.
func parallel(ctx context.Context, s *stage) error {
	for _, c := range []struct {
		name   string
		n      int
		volume func(string) mount.Mount
		aim    float64
	}{{"host-path", s.cfg.n, s.host, 1.5}, {"s3fs", max(10, s.cfg.n/5), s.bucket, 0}} {
		before := s.processor()
		got, err := inTurns(c.n, func() (time.Duration, error) { return s.atOnce(ctx, 1, c.volume) },
			func() (time.Duration, error) { return s.atOnce(ctx, several, c.volume) })
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		ratio, aim := times(p50(got[1]), p50(got[0])), ""
		if c.aim > 0 {
			aim = within("times one", ratio, c.aim)
		}
		row("one "+c.name+" volume", got[0], "")
		row(strconv.Itoa(several)+" "+c.name+" volumes at once, all ready", got[1], aim)
		note("%.2f times one; %.2f ms of processor time for each volume and its end, in the agent and here, on %d cores",
			ratio, (s.processor()-before).Seconds()*1000/float64(c.n*(1+several)), runtime.NumCPU())
	}
	return nil
}

// atOnce is how long n volumes take, asked for together, until the last one is there.
func (s *stage) atOnce(ctx context.Context, n int, volume func(string) mount.Mount) (time.Duration, error) {
	each := func(do func(mount.Mount) error) error {
		var group errgroup.Group
		for i := range n {
			m := volume("at-once-" + strconv.Itoa(i))
			group.Go(func() error { return do(m) })
		}
		return group.Wait()
	}
	took, err := timed(func() error { return each(func(m mount.Mount) error { return s.agent.Publish(ctx, m) }) })
	return took, errors.Join(err, each(func(m mount.Mount) error { return s.drop(ctx, m) }))
}

// processor is the time that the agent and this process have had, in ticks of 10 ms. The agent's children are not in it.
func (s *stage) processor() (total time.Duration) {
	for _, pid := range []int{s.server.Process.Pid, os.Getpid()} {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, rest, _ := strings.Cut(string(text), ") ")
		for _, f := range append(strings.Fields(rest), make([]string, 13)...)[11:13] {
			ticks, _ := strconv.Atoi(f)
			total += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return total
}
