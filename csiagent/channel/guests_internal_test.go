package channel

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// addressed is a connection between two addresses that nobody uses.
type addressed struct {
	net.Conn

	from, to string
}

func (a addressed) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(a.from)} }
func (a addressed) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.ParseIP(a.to)} }
func (a addressed) Close() error         { return nil }

func TestWhoeverComesFromThePodLeavesPlacesForOthers(t *testing.T) {
	const pod = "10.1.2.3"
	g := newGuests()
	var in []*guest
	for i := range 40 {
		for range perSource {
			from := net.IPv4(127, 0, 0, byte(i+1)).String()
			if i == 0 {
				from = pod
			}
			if c := g.let(addressed{from: from, to: pod}); c != nil {
				in = append(in, c)
			}
		}
	}
	require.Len(t, in, ofThePod)
	require.NotNil(t, g.let(addressed{from: "10.1.0.1", to: pod}), "the kubelet")
	for _, c := range in {
		require.NoError(t, c.Close())
	}
	require.NotNil(t, g.let(addressed{from: pod, to: pod}))
	require.Equal(t, []int{2, 1}, []int{g.all, g.own})
}
