package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandgate-dev/sandgate/e2e/world"
)

// pace is the time between two creates: the pool refills meanwhile, as it would under a steady load.
const pace = 80 * time.Millisecond

// box is what a create answers, as far as the bench needs it.
type box struct {
	ID    string `json:"sandboxID"`
	Token string `json:"envdAccessToken"`
}

// bench prints the figures of create, first command, proxy and memory on this machine.
func bench(ctx context.Context, cfg config) (err error) {
	setting := cfg.world()
	setting.Manifests = []string{"e2e/testdata/bench", "e2e/testdata/seed/oss.yaml", "e2e/testdata/world/volumes.yaml"}
	w, err := world.Start(ctx, setting)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeWorld(ctx, w)) }()
	fmt.Println(machine())
	if err := stocked(ctx, w, 100); err != nil {
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
		if err := stocked(ctx, w, 100); err != nil {
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
	b, err := create(ctx, w, mounts)
	if err == nil && command {
		err = run1(ctx, w, b)
	}
	took := time.Since(begin)
	if err != nil {
		return 0, err
	}
	return took, kill(ctx, w, b)
}

func create(ctx context.Context, w *world.World, mounts string) (box, error) {
	status, answer, err := w.Call(ctx, http.MethodPost, "/v2/sandboxes", `{"templateID":"bench","timeout":120`+mounts+`}`)
	if err != nil {
		return box{}, err
	}
	if status != http.StatusCreated {
		return box{}, fmt.Errorf("create: %d %s", status, answer)
	}
	var b box
	return b, json.Unmarshal(answer, &b)
}

func kill(ctx context.Context, w *world.World, b box) error {
	status, answer, err := w.Call(ctx, http.MethodDelete, "/sandboxes/"+b.ID, "")
	if err == nil && status != http.StatusNoContent {
		err = fmt.Errorf("kill: %d %s", status, answer)
	}
	return err
}

// run1 runs `true` as an SDK does and waits for its end.
func run1(ctx context.Context, w *world.World, b box) error {
	message := []byte(`{"process":{"cmd":"/bin/bash","args":["-l","-c","true"]},"stdin":false}`)
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	req, err := b.request(ctx, w, http.MethodPost, "/process.Process/Start", bytes.NewReader(append(frame, message...)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/connect+json")
	req.Header.Set("Connect-Protocol-Version", "1")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err == nil && !bytes.Contains(answer, []byte(`"exited":true`)) {
		err = fmt.Errorf("the command did not end well: %d %q", res.StatusCode, answer)
	}
	return err
}

func (b box) request(ctx context.Context, w *world.World, method, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, w.URL+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("E2b-Sandbox-Id", b.ID)
	req.Header.Set("E2b-Sandbox-Port", "49983")
	req.Header.Set("X-Access-Token", b.Token)
	return req, nil
}

// parallel creates many at once from a full pool.
func parallel(ctx context.Context, w *world.World, n int) error {
	boxes, took := make([]box, n), make([]time.Duration, n)
	var group errgroup.Group
	begin := time.Now()
	for i := range n {
		group.Go(func() (err error) {
			at := time.Now()
			boxes[i], err = create(ctx, w, "")
			took[i] = time.Since(at)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("parallel creates: %w", err)
	}
	fmt.Printf("%d parallel creates from a pool of 100: all succeed, together %s\n", n, time.Since(begin).Round(time.Millisecond))
	for _, b := range boxes {
		if err := kill(ctx, w, b); err != nil {
			return err
		}
	}
	return nil
}

// stocked waits until so many unclaimed sandboxes run: every one has an envd of its own.
func stocked(ctx context.Context, w *world.World, n int) error {
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

func machine() string {
	model, kernel := "unknown processor", "unknown kernel"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel = strings.TrimSpace(string(text))
	}
	load, _ := os.ReadFile("/proc/loadavg")
	return fmt.Sprintf("machine: %s, %d cores, Linux %s, %s, load %s", model, runtime.NumCPU(), kernel, runtime.Version(), strings.TrimSpace(string(load)))
}
