package oss

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"net/url"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// names is a name server that says of every name that it is at one address, until it says something else.
type names struct {
	at    atomic.Pointer[netip.Addr]
	asked atomic.Int32
}

func startNames(t *testing.T) (*names, *net.Resolver) {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	n := &names{}
	go func() { // ends with conn
		for b := make([]byte, 1500); ; {
			size, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(n.answer(b[:size]), from)
		}
	}()
	return n, &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp4", conn.LocalAddr().String())
	}}
}

// answer is RFC 1035's message, for a query with one question.
func (n *names) answer(query []byte) []byte {
	end := 12
	for query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5 // the last label's end, type and class
	out := append([]byte{}, query[:end]...)
	copy(out[2:], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0})
	if binary.BigEndian.Uint16(query[end-4:]) != 1 { // an address of IPv4
		return out
	}
	n.asked.Add(1)
	out[7] = 1
	a := n.at.Load().As4()
	return append(append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4), a[:]...)
}

func (n *names) say(address string) {
	a := netip.MustParseAddr(address)
	n.at.Store(&a)
}

// A name that leads to a store while it is looked at, and then to an address behind the guard.
func TestANameThatChangesItsAddressReachesNoOther(t *testing.T) {
	s := startStore(t)
	s.open(t)
	u, err := url.Parse(s.url)
	require.NoError(t, err)
	const barred = "127.0.0.9"
	secret, err := net.Listen("tcp", net.JoinHostPort(barred, u.Port()))
	require.NoError(t, err)
	defer func() { _ = secret.Close() }()
	var reached atomic.Int32
	go func() { // ends with secret
		for {
			c, err := secret.Accept()
			if err != nil {
				return
			}
			reached.Add(1)
			_ = c.Close()
		}
	}()

	for name, change := range map[string]func(*mount.Mount){
		"signed here":      func(*mount.Mount) {},
		"signed by nobody": func(m *mount.Mount) { m.Secret, m.Attributes["authType"] = nil, "public" },
	} {
		t.Run(name, func(t *testing.T) {
			dns, resolver := startNames(t)
			w := newWorld(t)
			g := local
			require.NoError(t, g.Bar(barred))
			w.config.Guard, w.config.Resolver = g, resolver
			m := bare(s.mount())
			m.Attributes["url"] = "http://store.example:" + u.Port()
			m.Attributes["otherOpts"] += " -o use_path_request_style -o retries=1"
			change(&m)

			dns.say(barred)
			_, err := w.Mount(t.Context(), m, w.dir)
			require.ErrorIs(t, err, mount.ErrDenied)

			dns.say("127.0.0.1")
			w.up(t, m)
			dns.say(barred)
			asked := dns.asked.Load()
			for _, h := range w.holders {
				h.(*signer).transport.CloseIdleConnections()
			}
			_, err = os.ReadDir(w.dir)
			require.Error(t, err, "the store is gone, as far as anybody may know")
			require.Greater(t, dns.asked.Load(), asked, "the name was looked up again")
			require.Zero(t, reached.Load())
			dns.say("127.0.0.1")
			_, err = os.ReadDir(w.dir)
			require.NoError(t, err, "the mount goes on when the name is right again")

			dns.say(barred)
			c, err := (&net.Dialer{Resolver: resolver}).DialContext(t.Context(), "tcp", "store.example:"+u.Port())
			require.NoError(t, err, "without the guard it would have been reached")
			require.NoError(t, c.Close())
			require.Eventually(t, func() bool { return reached.Swap(0) == 1 }, 20*time.Second, time.Millisecond)
		})
	}
}
