package mount

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhereNoVolumesServerMayBe(t *testing.T) {
	var g Guard
	require.NoError(t, g.Bar("10.96.0.1, 192.0.2.0/24,fd12::/64,"))
	for _, text := range []string{
		"127.0.0.1", "127.8.9.10", "::1", // the machine's or the pod's own
		"0.0.0.0", "0.1.2.3", "::", "224.0.0.1", "ff02::1", "255.255.255.255", // nobody's
		"169.254.169.254", "fe80::1", "fe80::a9fe:a9fe", // the link's, and metadata on it
		"100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254", "fd00:42::42", // metadata elsewhere
		"10.96.0.1", "192.0.2.200", "fd12::7", // barred by the administrator
	} {
		a := netip.MustParseAddr(text)
		require.True(t, g.Refuses(a), text)
		require.ErrorIs(t, g.CheckHost(text), ErrBarred, text)
		require.ErrorIs(t, g.Control("tcp", net.JoinHostPort(text, "443"), nil), ErrBarred, text)
		if !a.Is4() {
			continue
		}
		b := a.As4()
		for form, in := range map[string][]byte{
			"mapped":          {10: 0xff, 11: 0xff, 12: b[0], 13: b[1], 14: b[2], 15: b[3]},
			"compatible":      {12: b[0], 13: b[1], 14: b[2], 15: b[3]},
			"6to4":            {0: 0x20, 1: 0x02, 2: b[0], 3: b[1], 4: b[2], 5: b[3], 15: 1},
			"NAT64":           {1: 0x64, 2: 0xff, 3: 0x9b, 12: b[0], 13: b[1], 14: b[2], 15: b[3]},
			"local NAT64 /48": {1: 0x64, 2: 0xff, 3: 0x9b, 5: 1, 6: b[0], 7: b[1], 9: b[2], 10: b[3], 15: 0},
			"local NAT64 /56": {1: 0x64, 2: 0xff, 3: 0x9b, 5: 1, 7: b[0], 9: b[1], 10: b[2], 11: b[3], 15: 0},
			"local NAT64 /64": {1: 0x64, 2: 0xff, 3: 0x9b, 5: 1, 9: b[0], 10: b[1], 11: b[2], 12: b[3], 15: 0},
			"local NAT64 /96": {1: 0x64, 2: 0xff, 3: 0x9b, 5: 1, 12: b[0], 13: b[1], 14: b[2], 15: b[3]},
		} {
			six, ok := netip.AddrFromSlice(in)
			require.True(t, ok)
			require.True(t, g.Refuses(six), "%s %s: %s", text, form, six)
		}
	}
	for _, text := range []string{"10.96.0.2", "192.168.1.5", "172.16.0.1", "100.118.28.1", "8.8.8.8", "2606:4700::1", "fd00::7", "64:ff9b::808:808", "2002:808:808::1", "198.18.0.1"} {
		require.False(t, g.Refuses(netip.MustParseAddr(text)), text)
		require.NoError(t, g.CheckHost(text), text)
		require.NoError(t, g.Control("tcp", net.JoinHostPort(text, "443"), nil), text)
	}
	require.True(t, g.Refuses(netip.Addr{}), "none")
	require.True(t, g.Refuses(netip.MustParseAddr("fd00::7%eth0")), "with a zone")
	require.ErrorIs(t, g.Control("unix", "/run/x.sock", nil), ErrBarred)
}

func TestLoopbackIsForThoseWhoAskForIt(t *testing.T) {
	g := Guard{Loopback: true}
	require.NoError(t, g.Bar("127.0.0.9"))
	for _, host := range []string{"127.0.0.1", "::1", "::ffff:127.0.0.1", "localhost", "store.localhost", "s3.example.com"} {
		require.NoError(t, g.CheckHost(host), host)
	}
	for _, host := range []string{"127.0.0.9", "::ffff:127.0.0.9", "169.254.169.254", "0.0.0.0"} {
		require.ErrorIs(t, g.CheckHost(host), ErrBarred, host)
	}
	for _, host := range []string{"localhost", "LOCALHOST", "localhost.", "x.localhost"} {
		require.ErrorIs(t, Guard{}.CheckHost(host), ErrBarred, host)
	}
	require.NoError(t, Guard{}.CheckHost("localhost.example.com"))
}

func TestWhatIsNoNetworkIsNotBarredByMistake(t *testing.T) {
	for _, text := range []string{"10.0.0.0/33", "kubernetes.default", "fe80::1%eth0", "::ffff:10.0.0.0/104", "10.0.0"} {
		var g Guard
		require.ErrorContains(t, g.Bar(text), text)
		require.Empty(t, g.Barred)
	}
}

func TestAHostIsANameOrAnAddress(t *testing.T) {
	for _, text := range []string{"s3.example.com", "nas-1", "10.0.0.7", "fd00::7", "::ffff:1.2.3.4", "1.example"} {
		require.True(t, ValidHost(text), text)
	}
	// Some resolvers read these as 127.0.0.1.
	for _, text := range []string{"", "127.1", "2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "fe80::1%eth0", "-o", "a,b", "a b", "a/b", "a:1", "h\n"} {
		require.False(t, ValidHost(text), text)
	}
}
