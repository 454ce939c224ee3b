package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// give gives the loopback of a namespace a further address, or takes it away.
func give(t *testing.T, n *Namespace, kind uint16, address string) {
	t.Helper()
	require.NoError(t, n.inside(func() error {
		lo, err := net.InterfaceByName("lo")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		header := binary.NativeEndian.AppendUint32([]byte{unix.AF_INET, 32, 0, unix.RT_SCOPE_UNIVERSE}, uint32(lo.Index))
		return request(fd, message(kind, 0, header, unix.IFA_LOCAL, netip.MustParseAddr(address).AsSlice()))
	}))
}

func hold(t *testing.T, machine *Namespace, f *Fence) *Namespace {
	t.Helper()
	n := namespace(t)
	require.NoError(t, machine.inside(func() error { return f.Hold(n) }))
	return n
}

// isBarred tells a bar from the want of any route.
func isBarred(t *testing.T, n *Namespace, address string) bool {
	t.Helper()
	return errors.Is(reach(t, n, "tcp4", address+":9"), unix.EHOSTUNREACH)
}

func TestAnAddressThatTheMachineGetsIsBarred(t *testing.T) {
	machine, f := namespace(t), &Fence{}
	held, dropped := hold(t, machine, f), hold(t, machine, f)
	f.Drop(dropped)
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error)
	go func() {
		over <- machine.inside(func() error { f.Watch(ctx, func(err error) { t.Error(err) }); return nil })
	}()
	for _, address := range []string{"198.18.0.7", "198.18.0.8"} {
		require.False(t, isBarred(t, held, address))
		give(t, machine, unix.RTM_NEWADDR, address)
		require.Eventually(t, func() bool { return isBarred(t, held, address) }, 10*time.Second, 5*time.Millisecond)
		require.False(t, isBarred(t, dropped, address))
	}
	cancel()
	require.NoError(t, <-over)
}

func TestAnAddressThatTheMachineGetsBackIsBarredFromWhatCameMeanwhile(t *testing.T) {
	machine, f := namespace(t), &Fence{}
	renew := func() { require.NoError(t, machine.inside(f.renew)) }
	for _, address := range []string{"198.18.0.7", "198.18.0.8"} {
		give(t, machine, unix.RTM_NEWADDR, address)
	}
	renew()
	give(t, machine, unix.RTM_DELADDR, "198.18.0.7")
	n := hold(t, machine, f)
	require.False(t, isBarred(t, n, "198.18.0.7"))
	require.True(t, isBarred(t, n, "198.18.0.8"))
	give(t, machine, unix.RTM_NEWADDR, "198.18.0.7")
	renew()
	require.True(t, isBarred(t, n, "198.18.0.7"))
}

func TestAnAddressThatCouldNotBeBarredIsTriedAgain(t *testing.T) {
	machine, f := namespace(t), &Fence{}
	give(t, machine, unix.RTM_NEWADDR, "198.18.0.7")
	broken := hold(t, machine, f)
	broken.Close()
	for range 2 {
		require.ErrorContains(t, machine.inside(f.renew), "bar networks")
	}
	f.Drop(broken)
	require.NoError(t, machine.inside(f.renew))
}
