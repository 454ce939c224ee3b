package channel

import (
	"net"
	"sync"
)

// Bounds on connections that have not shown a certificate of ours. The tenant shares the pod's network and other pods may reach it, so
// that one address must not take what the kubelet, the gateway and the controller need.
const (
	maxGuests = 128
	perSource = 8
)

// guests are the connections of nobody in particular: those in their handshake, and those that are left with the probes.
type guests struct {
	mu   sync.Mutex
	from map[string]int // by address; no entry is 0
	all  int
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
	source := c.RemoteAddr().String()
	if host, _, err := net.SplitHostPort(source); err == nil {
		source = host
	}
	g.mu.Lock()
	full := g.all >= maxGuests || g.from[source] >= perSource
	if !full {
		g.all++
		g.from[source]++
	}
	g.mu.Unlock()
	if full {
		_ = c.Close()
		return nil
	}
	return &guest{Conn: c, leave: sync.OnceFunc(func() { g.leave(source) })}
}

func (g *guests) leave(source string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all--
	if g.from[source]--; g.from[source] == 0 {
		delete(g.from, source)
	}
}
