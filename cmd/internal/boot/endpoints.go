package boot

import (
	"flag"
	"net/netip"
	"os"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// Endpoints binds the flags that say where no volume's server may be. The API server of the cluster that this process runs in is barred
// always, by the address at which the cluster tells it to be.
func Endpoints(fs *flag.FlagSet, g *mount.Guard) {
	fs.Func("bar-endpoints", "comma-separated addresses and networks at which no volume's server may be, beside loopback, link-local, metadata addresses and the cluster's API server (default none)", g.Bar)
	fs.BoolVar(&g.Loopback, "loopback-endpoints", false, "let volumes' servers be on loopback, for tests and development")
	if a, err := netip.ParseAddr(os.Getenv("KUBERNETES_SERVICE_HOST")); err == nil {
		a = a.WithZone("").Unmap()
		g.Barred = append(g.Barred, netip.PrefixFrom(a, a.BitLen()))
	}
}
