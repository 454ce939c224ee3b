package channel

import (
	"net"
	"sync"
)

// Bounds on connections that have not shown a certificate of ours. The tenant shares the pod's network and other pods may reach it, so
// that one address must not take what the kubelet, the gateway and the controller need, and neither must the pod's own, of which the tenant
// has as many as he likes.
const (
	maxGuests = 128
	perSource = 8
	ofThePod  = maxGuests / 2
)

// guests are the connections of nobody in particular: those in their handshake, and those that are left with the probes.
type guests struct {
	mu   sync.Mutex
	from map[string]int // by address; no entry is 0
	all  int
	own  int // those from the pod itself
}

func newGuests() *guests { return &guests{from: map[string]int{}} }

// guest is such a connection, until it is closed or proves to be more.
type guest struct {
	net.Conn

	leave func() // may be called again
}

// Close closes the connection, whose place is free then.
func (g *guest) Close() error {
	g.leave()
	return g.Conn.Close()
}

// let lets c in, or closes it and returns nil.
func (g *guests) let(c net.Conn) *guest {
	source, own := sourceOf(c)
	g.mu.Lock()
	full := g.all >= maxGuests || g.from[source] >= perSource || own > 0 && g.own >= ofThePod
	if !full {
		g.all++
		g.from[source]++
		g.own += own
	}
	g.mu.Unlock()
	if full {
		_ = c.Close()
		return nil
	}
	return &guest{Conn: c, leave: sync.OnceFunc(func() { g.leave(source, own) })}
}

// sourceOf is the address that c comes from, and 1 when that is the pod's own.
func sourceOf(c net.Conn) (string, int) {
	from, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return c.RemoteAddr().String(), 0
	}
	if to, ok := c.LocalAddr().(*net.TCPAddr); from.IP.IsLoopback() || ok && to.IP.Equal(from.IP) {
		return from.IP.String(), 1
	}
	return from.IP.String(), 0
}

func (g *guests) leave(source string, own int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all--
	g.own -= own
	if g.from[source]--; g.from[source] == 0 {
		delete(g.from, source)
	}
}
