package faults

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

// Mode is what a Relay does with connections.
type Mode int

// The modes of a Relay.
const (
	Pass  Mode = iota // carry them to the target
	Mute              // accept them and never answer
	Close             // end them at once
)

// Relay stands between a client and a server, and breaks the way when it is told to.
type Relay struct {
	listener net.Listener
	all      sync.WaitGroup

	mu     sync.Mutex
	mode   Mode
	target string
	conns  map[net.Conn]struct{}
}

// Listen starts a relay on loopback.
func Listen(ctx context.Context) (*Relay, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Relay{listener: l, conns: map[net.Conn]struct{}{}}
	r.all.Go(r.accept)
	return r, nil
}

// Addr is where it listens.
func (r *Relay) Addr() string { return r.listener.Addr().String() }

// To names the server.
func (r *Relay) To(addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = addr
}

// Set changes the mode and cuts every connection that is open.
func (r *Relay) Set(m Mode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mode = m
	for c := range r.conns {
		_ = c.Close()
	}
	clear(r.conns)
}

// End closes everything and waits.
func (r *Relay) End() error {
	err := r.listener.Close()
	r.Set(Close)
	r.all.Wait()
	return err
}

func (r *Relay) accept() {
	for {
		c, err := r.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			r.all.Go(func() { r.serve(c) })
		}
	}
}

// keep remembers a connection so that it can be cut; false when it must end now.
func (r *Relay) keep(c net.Conn) (Mode, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mode == Close {
		_ = c.Close()
	} else {
		r.conns[c] = struct{}{}
	}
	return r.mode, r.target
}

func (r *Relay) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	mode, target := r.keep(c)
	switch mode {
	case Close:
		return
	case Mute:
		_, _ = io.Copy(io.Discard, c) // until it is cut or the client leaves
		return
	}
	server, err := net.Dial("tcp", target) //nolint:noctx // loopback: it is there or it is not
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	if mode, _ := r.keep(server); mode == Close {
		return
	}
	r.all.Go(func() {
		_, _ = io.Copy(server, c)
		_ = server.Close()
	})
	_, _ = io.Copy(c, server)
}
