//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sandgate-dev/sandgate/e2e/world"
)

// pace is the time between two creates: the pool refills meanwhile, as it would under a steady load.
const pace = 80 * time.Millisecond

// creates compares creates of sandboxes with no, one and several host-path volumes, by the API of a gateway on this machine.
func creates(ctx context.Context, s *stage) (err error) {
	w, err := world.Start(ctx, world.Config{Bin: s.cfg.bin, Manifests: []string{
		"e2e/testdata/bench", "e2e/testdata/seed/oss.yaml", "e2e/testdata/world/volumes.yaml",
	}})
	if err != nil {
		return err
	}
	defer func() {
		left, closing := w.Close(context.WithoutCancel(ctx))
		if len(left) > 0 {
			closing = errors.Join(closing, fmt.Errorf("left on the machine: %q", left))
		}
		err = errors.Join(err, closing)
	}()
	if err := w.Stocked(ctx, 100); err != nil {
		return err
	}
	with := func(n int) func() (time.Duration, error) {
		var mounts []string
		for i := range n {
			mounts = append(mounts, `{"name":"shared","path":"/data`+strconv.Itoa(i)+`"}`)
		}
		body := `,"timeout":120,"volumeMounts":[` + strings.Join(mounts, ",") + `]`
		return func() (time.Duration, error) { return timedCreate(ctx, w, body) }
	}
	got, err := inTurns(s.cfg.n, with(0), with(1), with(several))
	if err != nil {
		return err
	}
	row("create without a volume", got[0], "")
	row("create with one host-path volume", got[1], "")
	ratio := times(p50(got[2]), p50(got[1]))
	row("create with "+strconv.Itoa(several)+" host-path volumes", got[2], within("times one", ratio, 1.5))
	note("%.2f times one, by the API of a gateway on this machine, a create and a kill every %s", ratio, pace)
	return nil
}

func timedCreate(ctx context.Context, w *world.World, body string) (time.Duration, error) {
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(pace):
	}
	var b world.Sandbox
	took, err := timed(func() (err error) {
		b, err = w.Create(ctx, "bench", body)
		return err
	})
	if err != nil {
		return 0, err
	}
	return took, w.Kill(ctx, b)
}
