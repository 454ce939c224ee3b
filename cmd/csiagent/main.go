//go:build linux

// Command csiagent is the agent in a sandbox's pod: it mounts volumes into the running sandbox container for the gateway and the
// controller. The same program installs the starter, reads volumes that may hang, and serves /dev/fuse as a device plugin.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/sandgate-dev/sandgate/cmd/internal/boot"
	"github.com/sandgate-dev/sandgate/csiagent/driver/nas"
	"github.com/sandgate-dev/sandgate/csiagent/fusedevice"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

// For ourselves: the killable reader of a volume, and what mounts an NFS export.
const (
	probeCommand = "probe"
	nasCommand   = "nas"
)

const usage = `The agent in a sandbox's pod.

  csiagent serve         take the sandbox's mount namespace and mount volumes into it
  csiagent clients       start object stores' FUSE clients for the agent in the container beside this one
  csiagent install DIR [PROGRAM...]
                         put the starter, or these programs of this image, into DIR
  csiagent fuse-device   give /dev/fuse to agents, as a device plugin of the kubelet
  csiagent version

Each takes -h.
`

func main() {
	if err := command(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "csiagent:", err)
		os.Exit(1)
	}
}

func command(args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return errors.New("expected a command: serve, clients, install, fuse-device or version")
	}
	switch args[0] {
	case "serve":
		return serveCommand(args[1:])
	case "clients":
		return clientsCommand(args[1:])
	case "install":
		switch len(args) {
		case 1:
			return errors.New("install: expected a directory, and the programs to put there if it is not the starter")
		case 2:
			return boot.Install(args[1], "starter")
		}
		return boot.Install(args[1], args[2:]...)
	case "fuse-device":
		return fuseDeviceCommand(args[1:])
	case "version":
		fmt.Println(boot.Version)
		return nil
	case probeCommand:
		os.Exit(probe.Main(args[1:]))
	case nasCommand:
		os.Exit(nas.Main())
	}
	return fmt.Errorf("unknown command %q: expected serve, clients, install, fuse-device or version", args[0])
}

func serveCommand(args []string) error {
	frugal()
	var cfg config
	fs := flag.NewFlagSet("csiagent serve", flag.ContinueOnError)
	fs.StringVar(&cfg.Addr, "addr", ":49990", "address of the one port")
	fs.StringVar(&cfg.Handover, "handover", "/handover/handover.sock", "socket at which the starter hands the namespace over; with -containers one of this name in a directory beside it for each")
	fs.Func("containers", "comma-separated names of the containers that take mounts, the main one first (default one without a name)", boot.List(&cfg.Containers, ","))
	fs.StringVar(&cfg.State, "state", "/var/lib/sandgate-agent", "directory of the journal, in memory")
	fs.StringVar(&cfg.Identity, "identity", "/identity", "directory with tls.crt, tls.key and ca.crt")
	fs.Func("allow-host-paths", "colon-separated directories that host-path volumes may lie in (default none)", boot.List(&cfg.AllowHostPaths, ":"))
	cfg.bucketFlags(fs)
	fs.StringVar(&cfg.Clients, "clients", "", "socket of csiagent clients, which starts FUSE clients (default none: they are started here, and end with this container)")
	fs.BoolVar(&cfg.NASFence, "nas-fence", false, "keep the sandbox from NFS servers in the pod's network namespace (needs NET_ADMIN)")
	fs.BoolVar(&cfg.NASUnfenced, "nas-unfenced", false, "without a fence, mount NFS volumes that their owner restricts all the same")
	fs.StringVar(&cfg.Plugin.Name, "plugin", "", "name of the CSI driver whose node plugin is started as a child: its program and arguments follow after --, in which $(CSI_ENDPOINT) is its socket")
	fs.Func("plugin-context", "key=value for the volume context of the plugin's volumes; may be given several times", cfg.Plugin.context)
	format := fs.String("log-format", "json", "text or json")
	level := fs.String("log-level", "info", "debug, info, warn or error")
	if err := fs.Parse(args); err != nil {
		return err
	}
	cfg.Plugin.Command, cfg.Plugin.Env = fs.Args(), os.Environ()
	if err := cfg.Plugin.check(); err != nil {
		return err
	}
	log, err := boot.Logger(os.Stderr, *format, *level)
	if err != nil {
		return err
	}
	return serve(cfg, log)
}

// bucketFlags are those of whoever starts FUSE clients.
func (cfg *config) bucketFlags(fs *flag.FlagSet) {
	boot.Endpoints(fs, &cfg.Endpoints)
	fs.StringVar(&cfg.OSS.Endpoint, "oss-sts", "", "https URL of the service that exchanges a service account's token, for buckets with authType rrsa (default none)")
	fs.StringVar(&cfg.OSS.TokenFile, "oss-token", "", "file of the projected service account token for it (default none)")
}

func fuseDeviceCommand(args []string) error {
	cfg := fusedevice.Config{Device: "/dev/fuse"}
	fs := flag.NewFlagSet("csiagent fuse-device", flag.ContinueOnError)
	fs.StringVar(&cfg.Dir, "dir", "/var/lib/kubelet/device-plugins", "the kubelet's directory of device plugins")
	fs.StringVar(&cfg.Seen, "seen", "/host-dev/fuse", "where the node's /dev/fuse is seen")
	fs.IntVar(&cfg.Devices, "devices", 1000, "how many containers of the node may have it at once")
	if err := fs.Parse(args); err != nil {
		return err
	}
	log, err := boot.Logger(os.Stderr, "json", "info")
	if err != nil {
		return err
	}
	cfg.Log = log
	plugin, err := fusedevice.New(cfg)
	if err != nil {
		return err
	}
	var group boot.Group
	group.Add("device plugin", plugin.Run)
	return group.Run()
}
