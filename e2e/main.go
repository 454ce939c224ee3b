// Command e2e runs what needs a real gateway on this machine: the SDK suites, the demonstration, the figures, and the check that the docs claim
// no more than the suites showed. The Makefile calls it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/sandgate-dev/sandgate/e2e/matrix"
	"github.com/sandgate-dev/sandgate/e2e/world"
)

func main() {
	signal.Ignore(syscall.SIGPIPE) // a reader that leaves, such as head, must not keep us from cleaning up
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		stop()
		os.Exit(1)
	}
}

// config is where things lie; the working directory is the repository's.
type config struct {
	cache, language, pin, check, write string
	filter                             string
	n                                  int
}

func (c config) bin() string     { return filepath.Join(c.cache, "bin") }
func (c config) reports() string { return filepath.Join(c.cache, "reports", "sdk") }

// world has the pools that are shipped, the contract's manifests and our own.
func (c config) world() world.Config {
	return world.Config{Bin: c.bin(), Manifests: []string{
		"examples/local/base.yaml", "examples/local/code-interpreter.yaml", "e2e/testdata/seed", "e2e/testdata/world",
	}}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("expected sdk, demo, bench or matrix")
	}
	var cfg config
	fs := flag.NewFlagSet("e2e "+args[0], flag.ContinueOnError)
	fs.StringVar(&cfg.cache, "cache", defaultCache(), "directory of programs, SDKs and reports")
	fs.StringVar(&cfg.language, "language", "", "sdk: python or js, both when empty")
	fs.StringVar(&cfg.pin, "pin", "", "sdk: one version only")
	fs.StringVar(&cfg.filter, "filter", "", "sdk: only tests whose name holds this")
	fs.IntVar(&cfg.n, "n", 500, "bench: how many creates each figure is made of")
	fs.StringVar(&cfg.check, "check", "", "matrix: the document to compare with the reports")
	fs.StringVar(&cfg.write, "write", "", "matrix: the document to write the table into")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "sdk":
		return sdk(ctx, cfg)
	case "demo":
		return demo(ctx, cfg)
	case "matrix":
		return table(cfg)
	case "bench":
		return bench(ctx, cfg)
	}
	return fmt.Errorf("unknown command %q: expected sdk, demo, bench or matrix", args[0])
}

func table(cfg config) error {
	pins, err := matrix.Pins("e2e/sdk")
	if err != nil {
		return err
	}
	text, err := matrix.Table(cfg.reports(), pins)
	switch {
	case err != nil:
		return err
	case cfg.write != "":
		return matrix.Write(cfg.write, text)
	case cfg.check != "":
		return matrix.Check(cfg.check, text)
	}
	fmt.Print(text)
	return nil
}

func defaultCache() string {
	if dir := os.Getenv("CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "sandgate")
}
