// Command controller keeps a cluster's pools full and its sandboxes as they are to be. One replica is elected and works; the others wait.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/sandgate-dev/sandgate/cmd/internal/boot"
	"github.com/sandgate-dev/sandgate/csiagent/driver/oss"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

func main() {
	if err := command(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "controller:", err)
		os.Exit(1)
	}
}

// config is what the controller is told.
type config struct {
	MetricsAddr                  string
	Kubeconfig, ReleaseNamespace string
	Namespaces, AllowHostPaths   []string
	Plugins                      volume.Plugins
	Endpoints                    mount.Guard
	MaxMounts                    int
	Egress                       bool
	STS                          mount.Endpoint // where agents sign in for roles
	Volumes                      volume.Default
	Elect                        bool
	OTLPEndpoint                 string
	Webhook                      hookConfig
}

func command(args []string) error {
	cfg, do := config{Namespaces: []string{"default"}}, run
	if len(args) > 0 && args[0] == "retire" { // what has to be done before the installation is deleted
		do, args = retireAll, args[1:]
	}
	fs := flag.NewFlagSet("controller", flag.ContinueOnError)
	fs.StringVar(&cfg.MetricsAddr, "metrics-addr", ":9090", "address of /metrics, /livez and /readyz")
	fs.StringVar(&cfg.Kubeconfig, "kubeconfig", "", "file that names the cluster (default the one that this process runs in)")
	fs.StringVar(&cfg.ReleaseNamespace, "release-namespace", "sandgate", "namespace of the installation's own Secrets and of the lease")
	fs.Func("namespaces", "comma-separated namespaces of pools (default default)", boot.List(&cfg.Namespaces, ","))
	fs.Var(&cfg.Volumes, "volume-policy", "who may mount a PersistentVolume whose annotations name nobody: unbound (the default: everybody, unless it is bound to a claim), deny or allow")
	fs.Func("allow-host-paths", "colon-separated directories of nodes that host-path volumes may lie in, as the agents have them (default none)", boot.List(&cfg.AllowHostPaths, ":"))
	fs.Var(&cfg.Plugins, "drivers", "comma-separated RUNTIME=DRIVER: the CSI drivers of others, each by the runtime whose agents run its node plugin (default none)")
	boot.Endpoints(fs, &cfg.Endpoints)
	boot.MaxMounts(fs, &cfg.MaxMounts)
	fs.BoolVar(&cfg.Egress, "volume-egress", false, "keep a NetworkPolicy for each SandboxSet that has PersistentVolumes among its volumes or names some in its annotation sandgate.dev/egress-volumes")
	fs.Func("oss-sts", "https URL of the service that the agents sign in at for buckets with authType rrsa, as they have it; those policies let it through for such buckets (default none)",
		func(text string) (err error) {
			cfg.STS, err = oss.STS(text)
			return err
		})
	fs.BoolVar(&cfg.Elect, "leader-elect", true, "work only while holding the lease; false for a single replica")
	cfg.Webhook.bind(fs)
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
	speak(log)
	return do(cfg, log)
}
