//go:build linux

// Command storagebench prints the figures of volumes: an agent as it is shipped, a mount namespace that was handed over to it as a
// sandbox's is, and a real object store, all on this machine. It says beside each figure what is aimed at and judges nothing: the machine
// and its load are part of every figure. What is compared is run in turns.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/sandgate-dev/sandgate/e2e/figures"
)

// config is where programs are, and how often things are measured.
type config struct {
	bin, agent string
	n          int
	rows       []string
}

// rows are what can be measured, in the order in which they run.
var rows = []struct {
	name string
	run  func(context.Context, *stage) error
}{
	{"attach", attachment},
	{"ready", readiness},
	{"six", parallel},
	{"create", creates},
	{"heal", recovery},
	{"throughput", throughput},
	{"memory", memory},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "storagebench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	var cfg config
	fs := flag.NewFlagSet("storagebench", flag.ContinueOnError)
	fs.StringVar(&cfg.bin, "bin", "", "directory of starter and versitygw")
	fs.StringVar(&cfg.agent, "agent", "", "the agent's program, as it is shipped")
	fs.IntVar(&cfg.n, "n", 200, "measurements in each row; an attach is measured five times as often, what takes long less often")
	asked := fs.String("rows", strings.Join(names, ","), "comma-separated rows to run")
	if err := fs.Parse(args); err != nil {
		return err
	}
	cfg.rows = strings.Split(*asked, ",")
	for _, name := range cfg.rows {
		if !slices.Contains(names, name) {
			return fmt.Errorf("unknown row %q: expected %s", name, strings.Join(names, ", "))
		}
	}
	if !filepath.IsAbs(cfg.bin) || !filepath.IsAbs(cfg.agent) || cfg.n < 10 {
		return errors.New("expected -bin and -agent as absolute paths, and -n of 10 or more")
	}
	if os.Getuid() != 0 {
		return errors.New("needs root: it mounts")
	}
	return bench(ctx, cfg)
}

func bench(ctx context.Context, cfg config) (err error) {
	s, err := newStage(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()
	fmt.Println(figures.Machine())
	fmt.Println("the agent, the FUSE clients, the object store (on a disk of this machine) and what measures share these cores")
	heading()
	for _, r := range rows {
		if !slices.Contains(cfg.rows, r.name) {
			continue
		}
		if err := r.run(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	fmt.Println("load at the end", figures.Load())
	return nil
}
