// Command gateway serves the API and the sandboxes' data plane of a cluster. It keeps no state: any number of replicas may run.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/sandgate-dev/sandgate/cmd/internal/boot"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

func main() {
	if err := command(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "gateway:", err)
		os.Exit(1)
	}
}

// config is what the gateway is told.
type config struct {
	Addr, MetricsAddr            string
	Kubeconfig, ReleaseNamespace string
	Namespaces                   []string
	Domain                       string
	TrustedHosts, AllowHostPaths []string
	Plugins                      volume.Plugins
	Endpoints                    mount.Guard
	Volumes                      volume.Default
	Limits                       gateway.Limits
	MaxMounts                    int
	Cold, Warm, MaxRequests      int
	Ending                       boot.Ending
	OTLPEndpoint                 string
}

func command(args []string) error {
	if len(args) > 0 && args[0] == "selftest" {
		return selftest(args[1:], os.Stdout)
	}
	cfg := config{Limits: gateway.DefaultLimits(), Namespaces: []string{"default"}}
	fs := flag.NewFlagSet("gateway", flag.ContinueOnError)
	fs.StringVar(&cfg.Addr, "addr", ":3000", "address to serve API and data plane on")
	fs.StringVar(&cfg.MetricsAddr, "metrics-addr", ":9090", "address of /metrics, /livez and /readyz")
	fs.StringVar(&cfg.Kubeconfig, "kubeconfig", "", "file that names the cluster (default the one that this process runs in)")
	fs.StringVar(&cfg.ReleaseNamespace, "release-namespace", "sandgate", "namespace of the installation's own Secrets")
	fs.Func("namespaces", "comma-separated namespaces of pools (default default)", boot.List(&cfg.Namespaces, ","))
	fs.StringVar(&cfg.Domain, "domain", "", "domain whose hosts PORT-ID.DOMAIN reach sandboxes (default localhost)")
	fs.Func("trusted-hosts", "comma-separated further host names on which the headers of SDKs choose the sandbox, such as the Service's", boot.List(&cfg.TrustedHosts, ","))
	fs.Var(&cfg.Volumes, "volume-policy", "who may mount a PersistentVolume whose annotations name nobody: unbound (the default: everybody, unless it is bound to a claim), deny or allow")
	fs.Func("allow-host-paths", "colon-separated directories of nodes that host-path volumes may lie in, as the agents have them (default none)", boot.List(&cfg.AllowHostPaths, ":"))
	fs.Var(&cfg.Plugins, "drivers", "comma-separated RUNTIME=DRIVER: the CSI drivers of others, each by the runtime whose agents run its node plugin (default none)")
	boot.Endpoints(fs, &cfg.Endpoints)
	fs.DurationVar(&cfg.Limits.Create, "create-deadline", cfg.Limits.Create, "longest wait of a create request for a sandbox")
	fs.DurationVar(&cfg.Limits.MaxTimeout, "max-timeout", cfg.Limits.MaxTimeout, "longest life a sandbox may be given from now")
	boot.MaxMounts(fs, &cfg.MaxMounts)
	fs.IntVar(&cfg.Limits.Team.Mounts, "max-team-mounts", 0, "most mounts that a team may have over all its sandboxes (default no limit)")
	fs.IntVar(&cfg.Limits.Team.Mounted, "max-team-mounted", 0, "most sandboxes with mounts that a team may have (default no limit)")
	fs.IntVar(&cfg.Cold, "max-cold", 16, "most sandboxes that this replica has in the making for requests that found no stock; below 0: none")
	fs.IntVar(&cfg.Warm, "max-warm", 256, "most new sandboxes that this replica connects to ahead of their claim at a time; below 0: none")
	fs.IntVar(&cfg.MaxRequests, "max-requests", 0, "most requests and streams that one sandbox may have open (default 1000)")
	fs.DurationVar(&cfg.Ending.Linger, "linger", 0, "how long new requests are taken after a signal, until the Service leads elsewhere (default not at all)")
	fs.DurationVar(&cfg.Ending.Drain, "drain", 20*time.Second, "how long requests under way may take to end after that")
	fs.StringVar(&cfg.OTLPEndpoint, "otlp-endpoint", "", "host:port of an OpenTelemetry collector that takes traces over gRPC (default none)")
	format := fs.String("log-format", "json", "text or json")
	level := fs.String("log-level", "info", "debug, info, warn or error")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", fs.Arg(0))
	}
	log, err := boot.Logger(os.Stderr, *format, *level)
	if err != nil {
		return err
	}
	return run(cfg, log)
}
