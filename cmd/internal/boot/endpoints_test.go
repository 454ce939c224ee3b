package boot_test

import (
	"flag"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/cmd/internal/boot"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

func TestTheAPIServerIsBarredWhereverItIs(t *testing.T) {
	for name, c := range map[string]struct {
		told             string
		args             []string
		refused, allowed []string
	}{
		"in a cluster":                   {"10.96.0.1", nil, []string{"10.96.0.1", "::ffff:10.96.0.1", "64:ff9b::a60:1", "127.0.0.1"}, []string{"10.96.0.2"}},
		"in one of IPv6":                 {"fd00:10:96::1", nil, []string{"fd00:10:96::1"}, []string{"fd00:10:96::2"}},
		"elsewhere":                      {"", nil, []string{"127.0.0.1", "169.254.169.254"}, []string{"10.96.0.1"}},
		"with more barred":               {"10.96.0.1", []string{"-bar-endpoints=192.0.2.1, 10.0.0.0/24"}, []string{"10.96.0.1", "192.0.2.1", "10.0.0.9"}, []string{"192.0.2.2"}},
		"with loopback":                  {"10.96.0.1", []string{"-loopback-endpoints"}, []string{"10.96.0.1", "169.254.169.254"}, []string{"127.0.0.1", "::1"}},
		"by a name that nobody asks for": {"api.example.com", nil, []string{"127.0.0.1"}, []string{"10.96.0.1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("KUBERNETES_SERVICE_HOST", c.told)
			var g mount.Guard
			fs := flag.NewFlagSet("", flag.ContinueOnError)
			boot.Endpoints(fs, &g)
			require.NoError(t, fs.Parse(c.args))
			for _, a := range c.refused {
				require.ErrorIs(t, g.CheckHost(a), mount.ErrBarred, a)
			}
			for _, a := range c.allowed {
				require.NoError(t, g.CheckHost(a), a)
			}
		})
	}
	var g mount.Guard
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	boot.Endpoints(fs, &g)
	require.ErrorContains(t, fs.Parse([]string{"-bar-endpoints=kubernetes.default"}), "kubernetes.default")
}
