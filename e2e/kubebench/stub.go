package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/injector/envd"
	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/kube/keyring"
)

// statsAddr is where the stub tells what it was asked.
const statsAddr = "127.0.0.1:3900"

// stats is what the stub was asked. A refused initialisation is one by somebody else than the sandbox's owner: two had it.
type stats struct {
	Inits     int64 `json:"inits"`
	Refused   int64 `json:"refused"`
	Publishes int64 `json:"publishes"`
}

// stubs answer for every pod: one daemon and one agent for each, made when they are first asked.
type stubs struct {
	csi.UnimplementedNodeServer

	initKey                   string
	authority                 *channel.Authority
	pods                      *pods
	inits, refused, publishes atomic.Int64
}

func stub(ctx context.Context, cfg config, c *cluster) error {
	keys, err := keyring.Load(ctx, c.client, cfg.release)
	if err != nil {
		return err
	}
	s := &stubs{}
	if s.initKey, err = keys.InitKey(); err != nil {
		return err
	}
	if s.authority, err = keyring.EnsureAuthority(ctx, c.client, cfg.release, time.Now()); err != nil {
		return err
	}
	s.pods = newPods(s.make)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.pods.watch(ctx, c.rest) })
	group.Go(func() error { return s.agents(ctx) })
	for addr, h := range map[string]http.Handler{":" + strconv.Itoa(v1alpha1.EnvdPort): http.HandlerFunc(s.daemon), statsAddr: http.HandlerFunc(s.stats)} {
		server := &http.Server{Addr: addr, Handler: h, ReadHeaderTimeout: 10 * time.Second}
		group.Go(func() error {
			defer context.AfterFunc(ctx, func() { _ = server.Close() })()
			if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("stub: %w", err)
			}
			return nil
		})
	}
	return group.Wait()
}

// make is what stands for one pod.
func (s *stubs) make(id, uid string) (*pod, error) {
	verifier, err := initialize.NewVerifier(s.initKey, id, nil)
	if err != nil {
		return nil, err
	}
	p := &pod{init: &initialize.Handler{State: &initialize.State{}, Verifier: verifier, Version: envd.Version, Log: slog.New(slog.DiscardHandler)}}
	p.agent = func(ctx context.Context) (*funnel, error) { return s.agent(ctx, uid) }
	return p, nil
}

// daemon answers as the envd of whatever pod the request was sent to.
func (s *stubs) daemon(w http.ResponseWriter, r *http.Request) {
	addr, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	p := s.pods.at(r.Context(), addr)
	switch {
	case p == nil:
		http.Error(w, "no pod has this address", http.StatusServiceUnavailable)
	case r.URL.Path == "/health":
		w.WriteHeader(http.StatusNoContent)
	case r.URL.Path == initialize.Path && r.Method == http.MethodPost:
		told := &status{ResponseWriter: w}
		p.init.ServeHTTP(told, r)
		s.inits.Add(1)
		if told.code == http.StatusUnauthorized {
			s.refused.Add(1)
		}
	default:
		http.NotFound(w, r)
	}
}

// status remembers what was answered.
type status struct {
	http.ResponseWriter

	code int
}

// WriteHeader implements http.ResponseWriter.
func (s *status) WriteHeader(code int) {
	s.code = code
	s.ResponseWriter.WriteHeader(code)
}

func (s *stubs) stats(w http.ResponseWriter, _ *http.Request) {
	_ = json.NewEncoder(w).Encode(stats{s.inits.Load(), s.refused.Load(), s.publishes.Load()})
}

// agents lets every connection go to the agent of the pod that was dialled.
func (s *stubs) agents(ctx context.Context) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", ":"+strconv.Itoa(v1alpha1.AgentPort))
	if err != nil {
		return fmt.Errorf("stub: %w", err)
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("stub: %w", err)
		}
		go s.connect(ctx, conn)
	}
}

func (s *stubs) connect(ctx context.Context, conn net.Conn) {
	p := s.pods.at(ctx, conn.LocalAddr())
	if p == nil {
		conn.Close()
		return
	}
	into, err := p.listener()
	if err != nil || !into.put(conn) {
		conn.Close()
	}
}

// agent serves as one sandbox's agent until ctx ends: the product's own end of the channel, and a node that mounts nothing.
func (s *stubs) agent(ctx context.Context, uid string) (*funnel, error) {
	id, err := s.authority.Agent(uid, time.Now())
	if err != nil {
		return nil, err
	}
	server, err := channel.NewServer(channel.ServerConfig{
		Identity: func() (channel.Identity, error) { return id, nil }, Node: s, Version: "stub",
		HandedOver: func() bool { return true }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	l := newFunnel()
	go func() { _ = server.Serve(ctx, l) }() // ends with its pod
	return l, nil
}

// NodePublishVolume implements csi.NodeServer.
func (s *stubs) NodePublishVolume(context.Context, *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	s.publishes.Add(1)
	return &csi.NodePublishVolumeResponse{}, nil
}

// NodeUnpublishVolume implements csi.NodeServer.
func (s *stubs) NodeUnpublishVolume(context.Context, *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// NodeGetVolumeHealth implements csi.NodeServer.
func (s *stubs) NodeGetVolumeHealth(context.Context, *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	return &csi.NodeGetVolumeHealthResponse{}, nil
}

// funnel is a listener whose connections somebody else accepts.
type funnel struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newFunnel() *funnel { return &funnel{conns: make(chan net.Conn, 16), closed: make(chan struct{})} }

func (f *funnel) put(c net.Conn) bool {
	select {
	case f.conns <- c:
		return true
	case <-f.closed:
		return false
	}
}

// Accept implements net.Listener.
func (f *funnel) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return c, nil
	case <-f.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. The channel's server calls it once.
func (f *funnel) Close() error {
	close(f.closed)
	return nil
}

// Addr implements net.Listener.
func (f *funnel) Addr() net.Addr { return &net.TCPAddr{} }
