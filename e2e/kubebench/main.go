// Command kubebench drives gateways on a real API server whose pods are kwok's: the figures of create, and the herd that must lose no
// sandbox. Its stub answers for the pods' daemons and agents on every address that kwok gives out, with the product's own packages, so
// that the product needs no switch for it. It starts neither the cluster nor the product; e2e/kube/bench.sh does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// config is how large the runs are and where things are.
type config struct {
	release string
	urls    []string
	metrics []string
	n       int
	pace    time.Duration
	small   int
	large   int
	creates int
	pool    int
	rows    map[string]bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kubebench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("expected stub, bench or herd")
	}
	cfg := config{rows: map[string]bool{}}
	var urls, metrics, rows string
	fs := flag.NewFlagSet("kubebench "+args[0], flag.ContinueOnError)
	fs.StringVar(&cfg.release, "release-namespace", "sandgate", "namespace of the installation's Secrets")
	fs.StringVar(&urls, "gateways", "http://127.0.0.1:3001,http://127.0.0.1:3002,http://127.0.0.1:3003", "bench, herd: comma-separated addresses of the replicas")
	fs.StringVar(&metrics, "metrics", "http://127.0.0.1:3101,http://127.0.0.1:3102,http://127.0.0.1:3103", "bench: comma-separated addresses of their metrics")
	fs.IntVar(&cfg.n, "n", 2000, "bench: creates in each row")
	fs.DurationVar(&cfg.pace, "pace", 250*time.Millisecond, "bench: time between two creates; the pool must be able to refill meanwhile")
	fs.IntVar(&cfg.small, "small", 50, "bench: size of the small pool")
	fs.IntVar(&cfg.large, "large", 5000, "bench: size of the large pool")
	fs.StringVar(&rows, "rows", "create,tmpfs,storm,large,parallel", "bench: comma-separated rows to run")
	fs.IntVar(&cfg.creates, "creates", 1000, "herd: concurrent creates")
	fs.IntVar(&cfg.pool, "pool", 200, "herd: size of the pool")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	cfg.urls, cfg.metrics = strings.Split(urls, ","), strings.Split(metrics, ",")
	for row := range strings.SplitSeq(rows, ",") {
		cfg.rows[row] = true
	}
	c, err := connect()
	if err != nil {
		return err
	}
	switch args[0] {
	case "stub":
		return stub(ctx, cfg, c)
	case "bench":
		return bench(ctx, cfg, c)
	case "herd":
		return herd(ctx, cfg, c)
	}
	return fmt.Errorf("unknown command %q: expected stub, bench or herd", args[0])
}
