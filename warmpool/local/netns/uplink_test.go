package netns

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/warmpool/local/process"
)

// reach tries a connection from inside and says how it ended.
func reach(t *testing.T, n *Namespace, network, address string) error {
	t.Helper()
	return n.inside(func() error {
		c, err := net.DialTimeout(network, address, 700*time.Millisecond)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
}

// uplinked is a namespace with an uplink, and a port on which this machine listens at all its addresses.
func uplinked(t *testing.T) (*Namespace, string, func()) {
	t.Helper()
	n := namespace(t)
	if _, err := exec.LookPath("pasta"); err != nil {
		t.Skip("needs pasta")
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	p, err := n.Connect(t.Context(), t.TempDir(), &Fence{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = Disconnect(t.Context(), p) })
	return n, port, func() {
		require.NoError(t, Disconnect(t.Context(), p))
		_, err := process.Identify(p.PID)
		require.ErrorIs(t, err, process.ErrGone)
	}
}

func TestAnUplinkReachesNeitherThisMachineNorItsCredentials(t *testing.T) {
	n, port, _ := uplinked(t)
	hosts := []string{"127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0"}
	machine, err := addresses()
	require.NoError(t, err)
	for _, p := range machine {
		hosts = append(hosts, p.Addr().String())
	}
	for _, host := range hosts {
		require.Error(t, reach(t, n, "tcp4", net.JoinHostPort(host, port)), host)
	}
	for _, metadata := range []string{"169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192"} {
		require.ErrorIs(t, reach(t, n, "tcp4", metadata+":80"), unix.EHOSTUNREACH, metadata)
	}
	require.Error(t, reach(t, n, "tcp6", "[fd00::1]:80"))
}

// Without the routes the same look must find a way: here to an address that pasta would carry.
func TestARouteIsWhatBars(t *testing.T) {
	n, _, _ := uplinked(t)
	address := "198.18.0.1:9"
	require.NotErrorIs(t, reach(t, n, "tcp4", address), unix.EHOSTUNREACH)
	require.NoError(t, n.bar([]netip.Prefix{netip.MustParsePrefix("198.18.0.0/15")}))
	require.ErrorIs(t, reach(t, n, "tcp4", address), unix.EHOSTUNREACH)
}

// Some versions of pasta give the namespace all routes of this machine, and a cloud's machine may have one to its metadata service.
func TestNoRouteIsMoreExactThanOneThatBars(t *testing.T) {
	n, _, _ := uplinked(t)
	require.NoError(t, n.inside(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		metadata := netip.MustParseAddr("169.254.169.254").AsSlice()
		header := []byte{unix.AF_INET, 32, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_LINK, unix.RTN_UNICAST, 0, 0, 0, 0}
		route := message(unix.RTM_NEWROUTE, 0, header, unix.RTA_DST, metadata)
		route = binary.NativeEndian.AppendUint16(route, 8)
		route = binary.NativeEndian.AppendUint16(route, unix.RTA_OIF)
		route = binary.NativeEndian.AppendUint32(route, uint32(eth0.Index))
		binary.NativeEndian.PutUint32(route, uint32(len(route)))
		return request(fd, route)
	}))
	require.ErrorIs(t, reach(t, n, "tcp4", "169.254.169.254:80"), unix.EHOSTUNREACH)
}

func TestTheNetworkGoesWithTheUplink(t *testing.T) {
	n, _, cut := uplinked(t)
	names := func() (out []string) {
		require.NoError(t, n.inside(func() error {
			all, err := net.Interfaces()
			for _, i := range all {
				out = append(out, i.Name)
			}
			return err
		}))
		return out
	}
	require.Contains(t, names(), "eth0")
	cut()
	require.Equal(t, []string{"lo"}, names())
}

func TestAMissingPastaSaysWhatToDo(t *testing.T) {
	n := namespace(t)
	t.Setenv("PATH", t.TempDir())
	_, err := n.Connect(t.Context(), os.TempDir(), &Fence{})
	require.ErrorContains(t, err, "passt")
}
