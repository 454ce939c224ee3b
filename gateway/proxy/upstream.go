package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/sandgate-dev/sandgate/warmpool"
)

const (
	// dialTries, dialPause: a service that is just starting refuses for a moment. The pause doubles.
	dialTries   = 5
	dialPause   = 5 * time.Millisecond
	dialTimeout = 5 * time.Second
	// The daemon keeps its connections; other servers close idle ones after 5 s (Node, uvicorn) and would meet a request that
	// is already on its way, which cannot be sent again when it has a body.
	idleEnvd = 10 * time.Minute
	idleUser = 3 * time.Second
	maxIdle  = 32 // per port
)

// dialError says that no connection to the port came about.
type dialError struct{ err error }

func (e *dialError) Error() string { return "dial: " + e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// upstream is the way to one sandbox, as long as it lives: its connections and how many requests are on them.
type upstream struct {
	route      warmpool.Route
	envd, user *http.Transport

	mu     sync.Mutex
	dead   bool
	active int
	conns  map[*conn]struct{}
}

// conn is a connection that its upstream can cut.
type conn struct {
	net.Conn
	up *upstream
}

func newUpstream(route warmpool.Route) *upstream {
	u := &upstream{route: route, conns: map[*conn]struct{}{}}
	u.envd, u.user = u.transport(idleEnvd), u.transport(idleUser)
	return u
}

func (u *upstream) transport(idle time.Duration) *http.Transport {
	return &http.Transport{
		DialContext:           u.dial,
		DisableCompression:    true, // what the sandbox encodes, the client decodes
		MaxIdleConnsPerHost:   maxIdle,
		MaxIdleConns:          4 * maxIdle,
		IdleConnTimeout:       idle,
		ExpectContinueTimeout: time.Second,
		ReadBufferSize:        64 << 10,
		WriteBufferSize:       32 << 10,
	}
}

func (u *upstream) transportTo(port uint16) *http.Transport {
	if port == EnvdPort {
		return u.envd
	}
	return u.user
}

// dial connects to the port in addr; the name in it says nothing.
func (u *upstream) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for try := range dialTries {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return nil, &dialError{fmt.Errorf("%w, after: %w", ctx.Err(), err)}
		case <-u.route.Gone:
			return nil, &dialError{errors.New("the sandbox is gone")}
		}
		var c net.Conn
		if c, err = u.route.Dial(ctx, uint16(port)); err == nil {
			return u.keep(c)
		}
		pause.Reset(dialPause << try)
	}
	return nil, &dialError{err}
}

func (u *upstream) keep(c net.Conn) (net.Conn, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.dead {
		_ = c.Close()
		return nil, &dialError{errors.New("the sandbox is gone")}
	}
	kept := &conn{c, u}
	u.conns[kept] = struct{}{}
	return kept, nil
}

// Close forgets the connection.
func (c *conn) Close() error {
	c.up.mu.Lock()
	delete(c.up.conns, c)
	c.up.mu.Unlock()
	return c.Conn.Close()
}

// enter counts a request in, unless there are already limit of them; leave counts it out.
func (u *upstream) enter(limit int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.active >= limit {
		return false
	}
	u.active++
	return true
}

func (u *upstream) leave() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.active--
}

// cut ends every connection, so that whoever reads from one learns now that nothing will come.
func (u *upstream) cut() {
	u.mu.Lock()
	u.dead = true
	open := make([]*conn, 0, len(u.conns))
	for c := range u.conns {
		open = append(open, c)
	}
	u.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
	u.envd.CloseIdleConnections()
	u.user.CloseIdleConnections()
}

// gone says whether the sandbox is dead.
func (u *upstream) gone() bool {
	select {
	case <-u.route.Gone:
		return true
	default:
		return false
	}
}
