package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandgate-dev/sandgate/e2e/figures"
	"github.com/sandgate-dev/sandgate/e2e/world"
)

// pace is the time between two creates: the pool refills meanwhile, as it would under a steady load.
const pace = 80 * time.Millisecond

// lifetime is what every create asks for.
const lifetime = `,"timeout":120`

// bench prints the figures of create, first command, proxy and memory on this machine.
func bench(ctx context.Context, cfg config) (err error) {
	setting := cfg.world()
	setting.Manifests = []string{"e2e/testdata/bench", "e2e/testdata/seed/oss.yaml", "e2e/testdata/world/volumes.yaml"}
	w, err := world.Start(ctx, setting)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeWorld(ctx, w)) }()
	fmt.Println(figures.Machine())
	if err := w.Stocked(ctx, 100); err != nil {
		return err
	}
	if err := idle(w); err != nil {
		return err
	}
	if err := parallel(ctx, w, 50); err != nil {
		return err
	}
	fmt.Printf("%-42s %9s %9s %9s\n", fmt.Sprintf("n=%d, one per %s, refill running", cfg.n, pace), "p50", "p95", "p99")
	for _, c := range []struct{ name, mounts string }{
		{"warm create", ""},
		{"warm create, one tmpfs volume", `,"volumeMounts":[{"name":"scratch","path":"/data"}]`},
		{"warm create, one host-path volume", `,"volumeMounts":[{"name":"shared","path":"/data"}]`},
		{"warm create, one S3 volume", `,"volumeMounts":[{"name":"oss-pv-sandbox-system","path":"/data"}]`},
	} {
		if err := w.Stocked(ctx, 100); err != nil {
			return err
		}
		took, err := each(ctx, cfg.n, func() (time.Duration, error) { return timedCreate(ctx, w, c.mounts, false) })
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		report(c.name, took)
	}
	took, err := each(ctx, cfg.n, func() (time.Duration, error) { return timedCreate(ctx, w, "", true) })
	if err != nil {
		return err
	}
	report("create to first command done", took)
	return proxied(ctx, w, cfg.n)
}

// each runs n measurements, one per pace.
func each(ctx context.Context, n int, measure func() (time.Duration, error)) ([]time.Duration, error) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	var out []time.Duration
	for range n {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		took, err := measure()
		if err != nil {
			return nil, err
		}
		out = append(out, took)
	}
	return out, nil
}

func timedCreate(ctx context.Context, w *world.World, mounts string, command bool) (time.Duration, error) {
	begin := time.Now()
	b, err := w.Create(ctx, "bench", lifetime+mounts)
	if err == nil && command {
		_, err = w.Run(ctx, b, "true")
	}
	took := time.Since(begin)
	if err != nil {
		return 0, err
	}
	return took, w.Kill(ctx, b)
}

// parallel creates many at once from a full pool.
func parallel(ctx context.Context, w *world.World, n int) error {
	boxes, took := make([]world.Sandbox, n), make([]time.Duration, n)
	var group errgroup.Group
	begin := time.Now()
	for i := range n {
		group.Go(func() (err error) {
			at := time.Now()
			boxes[i], err = w.Create(ctx, "bench", lifetime)
			took[i] = time.Since(at)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("parallel creates: %w", err)
	}
	fmt.Printf("%d parallel creates from a pool of 100: all succeed, together %s\n", n, time.Since(begin).Round(time.Millisecond))
	for _, b := range boxes {
		if err := w.Kill(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// idle says what the idle pool costs.
func idle(w *world.World) error {
	pids, err := w.Processes("")
	if err != nil {
		return err
	}
	total, envd := 0, 0
	for _, pid := range pids {
		kib := pss(pid)
		total += kib
		if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); strings.TrimSpace(string(name)) == "envd" {
			envd += kib
		}
	}
	fmt.Printf("100 idle sandboxes: %d MiB in all processes (gateway included), %.1f MiB per envd, proportional set size\n", total>>10, float64(envd)/1024/100)
	return nil
}

func pss(pid int) int {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0 // gone meanwhile
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kib int
		if _, err := fmt.Sscanf(lines.Text(), "Pss: %d kB", &kib); err == nil {
			return kib
		}
	}
	return 0
}

func report(name string, took []time.Duration) {
	slices.Sort(took)
	at := func(p int) string {
		return fmt.Sprintf("%.2f ms", float64(took[min(len(took)-1, len(took)*p/100)].Microseconds())/1000)
	}
	fmt.Printf("%-42s %9s %9s %9s\n", name, at(50), at(95), at(99))
}
