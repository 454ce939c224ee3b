package channel

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// PoolConfig is what a Pool needs.
type PoolConfig struct {
	// Identity is the client's, as it is now. Required.
	Identity func() (Identity, error)
	// Request names the request that a context belongs to, for the agent's log; nil for none.
	Request func(ctx context.Context) string
	// MaxWarm is how many connections Warm opens at the most; 2000 when zero. Publishes open theirs beyond it.
	MaxWarm int
	// Log is required.
	Log *slog.Logger
}

// Pool holds a connection to the agent of each sandbox that somebody asked for, until it is dropped.
type Pool struct {
	cfg PoolConfig

	mu     sync.Mutex
	agents map[string]*Agent
	closed bool
}

// NewPool makes a pool; Close ends its connections.
func NewPool(cfg PoolConfig) (*Pool, error) {
	if cfg.Identity == nil || cfg.Log == nil {
		return nil, errors.New("channel: Identity and Log are needed")
	}
	if cfg.Request == nil {
		cfg.Request = func(context.Context) string { return "" }
	}
	if cfg.MaxWarm == 0 {
		cfg.MaxWarm = 2000
	}
	return &Pool{cfg: cfg, agents: map[string]*Agent{}}, nil
}

// Agent is the agent of the sandbox with this UID, at addr (host:port). Nothing is dialled yet.
func (p *Pool) Agent(sandboxUID, addr string) *Agent {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.agents[sandboxUID]
	if a != nil && a.addr == addr {
		return a
	}
	if a != nil {
		a.close()
	}
	a = &Agent{pool: p, uid: sandboxUID, addr: addr}
	if p.closed {
		a.gone = true
		return a
	}
	p.agents[sandboxUID] = a
	return a
}

// Warm connects to an agent ahead of its first publish and reads its state.
func (p *Pool) Warm(ctx context.Context, sandboxUID, addr string) (State, error) {
	p.mu.Lock()
	full := len(p.agents) >= p.cfg.MaxWarm && p.agents[sandboxUID] == nil
	p.mu.Unlock()
	if full {
		return State{}, nil
	}
	return p.Agent(sandboxUID, addr).State(ctx)
}

// Drop ends the connection to a sandbox's agent. Calls under way fail.
func (p *Pool) Drop(sandboxUID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.agents[sandboxUID]; a != nil {
		a.close()
		delete(p.agents, sandboxUID)
	}
}

// Len is how many agents are known.
func (p *Pool) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.agents)
}

// Close ends every connection.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for uid, a := range p.agents {
		a.close()
		delete(p.agents, uid)
	}
}

// Agent is the client's end of one agent. Safe for concurrent use.
type Agent struct {
	pool      *Pool
	uid, addr string

	mu       sync.Mutex
	conn     *grpc.ClientConn
	judge    []byte // the authority by which conn's other end is judged
	gone     bool
	protocol int // that it speaks, 0 while it is not known
}

func (a *Agent) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gone = true
	if a.conn != nil {
		_ = a.conn.Close()
		a.conn = nil
	}
}

// connect returns the connection, which gRPC keeps up by itself from then on.
func (a *Agent) connect() (*grpc.ClientConn, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gone {
		return nil, fmt.Errorf("%w: its sandbox was dropped", ErrUnreachable)
	}
	id, err := a.pool.cfg.Identity()
	if err != nil {
		return nil, fmt.Errorf("channel: %w", err)
	}
	if a.conn != nil && bytes.Equal(a.judge, id.CA) {
		return a.conn, nil
	}
	if a.conn != nil {
		_ = a.conn.Close()
		a.conn, a.protocol = nil, 0
	}
	cfg, err := a.tls(id)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+a.addr,
		grpc.WithTransportCredentials(credentials.NewTLS(cfg)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}, MinConnectTimeout: handshakeTime,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 2 * time.Minute, Timeout: 10 * time.Second, PermitWithoutStream: true}),
		grpc.WithIdleTimeout(0), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithNoProxy(),
		grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	a.conn, a.judge = conn, id.CA
	return conn, nil
}

// tls pins the sandbox: what answers at the address must be its agent, or nothing is said to it.
func (a *Agent) tls(id Identity) (*tls.Config, error) {
	_, roots, err := id.tls()
	if err != nil {
		return nil, fmt.Errorf("channel: %w", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: a.uid + suffix, RootCAs: roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			now, err := a.pool.cfg.Identity() // it may have been renewed
			if err != nil {
				return nil, err
			}
			pair, _, err := now.tls()
			return &pair, err
		},
	}, nil
}

// State is what an agent says of itself.
type State struct {
	Version    string
	Protocol   int
	HandedOver bool
}

func stateOf(version string, manifest map[string]string) State {
	protocol, _ := strconv.Atoi(manifest[manifestProtocol]) // none is 0: too old
	return State{Version: version, Protocol: protocol, HandedOver: manifest[manifestHandover] == handedOver}
}
