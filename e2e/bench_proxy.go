package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/sandgate-dev/sandgate/e2e/world"
	"github.com/sandgate-dev/sandgate/warmpool/local/netns"
)

// proxied compares the way through the gateway with a connection straight into the sandbox's network namespace, to the same envd.
func proxied(ctx context.Context, w *world.World, n int) error {
	b, err := w.Create(ctx, "bench", lifetime)
	if err != nil {
		return err
	}
	pid, err := envdOf(w, b.ID)
	if err != nil {
		return err
	}
	space, err := netns.Of(pid)
	if err != nil {
		return err
	}
	defer space.Close()
	straight := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return space.Dial(ctx, 49983)
	}}}
	for _, way := range []struct {
		name   string
		client *http.Client
	}{{"GET /health straight to envd", straight}, {"GET /health through the gateway", http.DefaultClient}} {
		var took []time.Duration
		for range n {
			begin := time.Now()
			if _, err := fetch(ctx, w, b, way.client, http.MethodGet, "/health", nil); err != nil {
				return err
			}
			took = append(took, time.Since(begin))
		}
		report(way.name, took)
	}
	return throughput(ctx, w, b, straight)
}

// throughput downloads the same file both ways.
func throughput(ctx context.Context, w *world.World, b world.Sandbox, straight *http.Client) error {
	const size = 128 << 20
	if _, err := fetch(ctx, w, b, http.DefaultClient, http.MethodPost, "/files?path=/tmp/big", io.LimitReader(zeros{}, size)); err != nil {
		return err
	}
	rate := func(client *http.Client) (float64, error) {
		begin := time.Now()
		got, err := fetch(ctx, w, b, client, http.MethodGet, "/files?path=/tmp/big", nil)
		if err == nil && got != size {
			err = fmt.Errorf("got %d of %d bytes", got, size)
		}
		return float64(size>>20) / time.Since(begin).Seconds(), err
	}
	direct, err := rate(straight)
	if err != nil {
		return err
	}
	through, err := rate(http.DefaultClient)
	if err != nil {
		return err
	}
	fmt.Printf("download of 128 MiB: straight %.0f MiB/s, through the gateway %.0f MiB/s (%.2f of it)\n", direct, through, through/direct)
	return nil
}

func fetch(ctx context.Context, w *world.World, b world.Sandbox, client *http.Client, method, path string, body io.Reader) (int64, error) {
	req, err := w.Request(ctx, b, method, path, body)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	if body != nil {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		return 0, fmt.Errorf("%s %s: %s", method, path, res.Status)
	}
	return io.Copy(io.Discard, res.Body)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// envdOf finds a sandbox's envd by the sandbox's id in its mounts or cgroup.
func envdOf(w *world.World, id string) (int, error) {
	pids, err := w.Processes("envd")
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		if strings.Contains(w.Places(pid), id) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("no envd of sandbox %s among %d", id, len(pids))
}
