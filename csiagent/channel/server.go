package channel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/sandgate-dev/sandgate/csiagent/accept"
)

// ServerConfig is what a Server needs; every field is required.
type ServerConfig struct {
	// Identity is the agent's, as it is now: it is asked for each connection, so that a renewed one is used without a restart.
	Identity func() (Identity, error)
	// Node does the work.
	Node csi.NodeServer
	// Version of the agent, for whoever asks.
	Version string
	// HandedOver says whether the mount namespace of every container that takes mounts is here.
	HandedOver func() bool
	// Reachable says whether that of any is: then volumes can be mounted somewhere. HandedOver when nil.
	Reachable func() bool
	Log       *slog.Logger
}

// Server is the agent's end: one TLS port. Who shows a certificate of a client of ours speaks gRPC; everybody else, the kubelet above
// all, gets /livez and /readyz and nothing more.
type Server struct {
	cfg    ServerConfig
	grpc   *grpc.Server
	probes *http.Server

	strangers *guests

	mu     sync.Mutex
	cached *tls.Config
	of     string // the certificates that cached was made of
}

// Bounds on what strangers can take up.
const (
	handshakeTime = 5 * time.Second
	maxMessage    = 1 << 20
	maxStreams    = 64
)

// How connections of clients are kept: one whose other end has vanished is noticed, and a certificate is looked at again within a day.
var lasting = keepalive.ServerParameters{MaxConnectionAge: 12 * time.Hour, MaxConnectionAgeGrace: time.Minute, Time: 5 * time.Minute, Timeout: 20 * time.Second}

// NewServer makes a server; Serve runs it.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.Identity == nil || cfg.Node == nil || cfg.HandedOver == nil || cfg.Log == nil || cfg.Version == "" {
		return nil, errors.New("channel: Identity, Node, Version, HandedOver and Log are needed")
	}
	if cfg.Reachable == nil {
		cfg.Reachable = cfg.HandedOver
	}
	s := &Server{cfg: cfg, strangers: newGuests()}
	s.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxConcurrentStreams(maxStreams), grpc.MaxHeaderListSize(16<<10),
		grpc.ReadBufferSize(4<<10), grpc.WriteBufferSize(4<<10),
		grpc.ConnectionTimeout(handshakeTime), grpc.UnaryInterceptor(s.intercept),
		grpc.WaitForHandlers(true), grpc.KeepaliveParams(lasting),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Minute, PermitWithoutStream: true}),
	)
	csi.RegisterIdentityServer(s.grpc, identityServer{version: cfg.Version, handedOver: cfg.HandedOver})
	csi.RegisterNodeServer(s.grpc, cfg.Node)
	s.probes = &http.Server{
		Handler: s.probe(), ReadTimeout: handshakeTime, WriteTimeout: handshakeTime, IdleTimeout: handshakeTime, MaxHeaderBytes: 4 << 10,
		ErrorLog: log.New(discard{}, "", 0),
	}
	s.probes.SetKeepAlivesEnabled(false)
	return s, nil
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// Serve serves l until ctx ends; calls under way have ended when it returns.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ours, strangers := newQueue(l.Addr()), newQueue(l.Addr())
	var group errgroup.Group
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group.Go(func() error { return s.grpc.Serve(ours) })
	group.Go(func() error {
		if err := s.probes.Serve(strangers); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		err := errors.Join(l.Close(), s.probes.Close())
		s.grpc.Stop()
		return err
	})
	err := s.accept(ctx, l, ours, strangers)
	cancel()
	return errors.Join(err, group.Wait())
}

// accept sorts connections by what they can show.
func (s *Server) accept(ctx context.Context, l net.Listener, ours, strangers *queue) error {
	var hands sync.WaitGroup
	defer hands.Wait()
	for {
		raw, err := accept.Next(ctx, l)
		switch {
		case errors.Is(err, accept.ErrOver):
			return nil
		case err != nil:
			return fmt.Errorf("channel: %w", err)
		}
		if c := s.strangers.let(raw); c != nil {
			hands.Go(func() { s.greet(ctx, c, ours, strangers) })
		}
	}
}

// greet does the handshake and passes the connection on.
func (s *Server) greet(ctx context.Context, raw *guest, ours, strangers *queue) {
	within, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	c := tls.Server(raw, &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: s.config})
	if err := c.HandshakeContext(within); err != nil {
		s.cfg.Log.DebugContext(ctx, "handshake", "error", err)
		_ = raw.Close()
		return
	}
	to := strangers // the kubelet's probes speak HTTP/2 as well
	if state := c.ConnectionState(); state.NegotiatedProtocol == "h2" && client(state) {
		to = ours
		raw.leave()
	}
	if !to.put(ctx, c) {
		_ = raw.Close()
	}
}

// client says whether the other side has proved to be a client of ours.
func client(state tls.ConnectionState) bool {
	if len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return false
	}
	name := state.PeerCertificates[0].Subject.CommonName
	return name == Gateway || name == Controller
}

// config is what the identity of now asks of a connection.
func (s *Server) config(*tls.ClientHelloInfo) (*tls.Config, error) {
	id, err := s.cfg.Identity()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	of := string(id.Cert) + string(id.CA)
	if s.cached != nil && s.of == of {
		return s.cached, nil
	}
	pair, pool, err := id.tls()
	if err != nil {
		return nil, err
	}
	s.of = of
	s.cached = &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"},
		ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool, SessionTicketsDisabled: true,
		VerifyConnection: verifyClient,
	}
	return s.cached, nil
}

// verifyClient refuses certificates of ours that are not a client's: an agent's must not open other agents.
func verifyClient(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return nil
	}
	for _, use := range state.PeerCertificates[0].ExtKeyUsage {
		if use == x509.ExtKeyUsageClientAuth {
			return nil
		}
	}
	return errors.New("the certificate is no client's")
}

// probe is all that strangers get.
func (s *Server) probe() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !s.cfg.HandedOver() {
			http.Error(w, ErrNotReady.Error(), http.StatusServiceUnavailable)
		}
	})
	return mux
}
