// Command sandgate is Sandgate on one machine: gateway, warm pool and CSI agent in one process.
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
	"time"

	"github.com/sandgate-dev/sandgate/cmd/internal/boot"
	"github.com/sandgate-dev/sandgate/csiagent/driver/nas"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
	"github.com/sandgate-dev/sandgate/warmpool/local"
)

// For ourselves: the killable reader of a volume, and what mounts an NFS export.
const (
	probeCommand = "probe"
	nasCommand   = "nas"
)

const usage = `Sandgate on one machine.

  sandgate run     serve the API and the sandboxes' data plane
  sandgate clean   end every sandbox of a state directory and leave nothing of it

Each takes -h.
`

func main() {
	if err := command(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "sandgate:", err)
		os.Exit(1)
	}
}

func command(args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return errors.New("expected a command: run or clean")
	}
	switch args[0] {
	case "run":
		return runCommand(args[1:])
	case "clean":
		return cleanCommand(args[1:])
	case probeCommand:
		os.Exit(probe.Main(args[1:]))
	case nasCommand:
		os.Exit(nas.Main())
	}
	return fmt.Errorf("unknown command %q: expected run or clean", args[0])
}

func runCommand(args []string) error {
	var cfg config
	fs := flag.NewFlagSet("sandgate run", flag.ContinueOnError)
	fs.StringVar(&cfg.Addr, "addr", "127.0.0.1:3000", "address to serve API and data plane on")
	fs.StringVar(&cfg.State, "state", defaultState(), "directory of keys, sandboxes and logs")
	fs.StringVar(&cfg.Manifests, "manifests", "examples/local", "directory of SandboxSet, PersistentVolume, PersistentVolumeClaim and Secret manifests")
	fs.StringVar(&cfg.Bin, "bin", filepath.Dir(executable()), "directory of the static programs envd and starter")
	fs.Var(&cfg.Volumes, "volume-policy", "who may mount a PersistentVolume whose annotations name nobody: unbound (the default: everybody, unless it is bound to a claim), deny or allow")
	fs.Func("allow-host-paths", "colon-separated directories that host-path volumes may lie in (default none)", boot.List(&cfg.AllowHostPaths, ":"))
	boot.Endpoints(fs, &cfg.Endpoints)
	fs.BoolVar(&cfg.NASUnfenced, "nas-unfenced", false, "mount NFS volumes that their owner restricts, although a sandbox with a network may reach the server itself")
	fs.StringVar(&cfg.MetricsAddr, "metrics-addr", "", "address to serve /metrics, /livez and /readyz on, for whoever reaches it (default none)")
	fs.StringVar(&cfg.Domain, "domain", "", "domain whose hosts PORT-ID.DOMAIN reach sandboxes (default the address)")
	fs.DurationVar(&cfg.CreateDeadline, "create-deadline", 30*time.Second, "longest wait of a create request for a sandbox")
	fs.DurationVar(&cfg.MaxTimeout, "max-timeout", 24*time.Hour, "longest life a sandbox may be given from now")
	fs.IntVar(&cfg.MaxMounts, "max-mounts", mount.DefaultMaxMounts, "most mounts of one sandbox")
	fs.IntVar(&cfg.MaxSandboxes, "max-sandboxes", 512, "most sandboxes at a time, stock included")
	format := fs.String("log-format", "text", "text or json")
	level := fs.String("log-level", "info", "debug, info, warn or error")
	if err := fs.Parse(args); err != nil {
		return err
	}
	log, err := boot.Logger(os.Stderr, *format, *level)
	if err != nil {
		return err
	}
	return run(cfg, log, os.Stdout)
}

func cleanCommand(args []string) error {
	fs := flag.NewFlagSet("sandgate clean", flag.ContinueOnError)
	state := fs.String("state", defaultState(), "directory of keys, sandboxes and logs")
	if err := fs.Parse(args); err != nil {
		return err
	}
	log, err := boot.Logger(os.Stderr, "text", "info")
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	path, err := filepath.Abs(*state)
	if err != nil {
		return err
	}
	drivers, err := builtin(config{}, log)
	if err != nil {
		return err
	}
	return local.Clean(ctx, local.Config{State: path, Drivers: drivers, Probe: prober(), Log: log})
}

func defaultState() string {
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "sandgate")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/var/lib"
	}
	return filepath.Join(home, ".local", "state", "sandgate")
}

func executable() string {
	path, err := os.Executable()
	if err != nil {
		return "."
	}
	return path
}
