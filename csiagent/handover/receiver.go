//go:build linux

package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/accept"
	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/mount/process"
)

// Config says where a Receiver listens. Zero values stand for the defaults named.
type Config struct {
	// Socket is the path of the socket, which every user may connect to. Its directory must be writable by the agent alone:
	// mount it read-only into the container.
	Socket string
	// Threads work in the namespaces received.
	Threads *attach.Threads
	// Silence is how long a connection may wait with its message; 2 s.
	Silence time.Duration
	// Pending is how many connections may wait with theirs at once; 8. Further ones are closed.
	Pending int
}

// State is what a Receiver has to show.
type State struct {
	// Ready says that a verified hand-over is in force.
	Ready bool
	// Accepted and Refused count hand-overs.
	Accepted, Refused uint64
	// LastRefusal is why the latest one was refused; errors.Is tells the reasons apart.
	LastRefusal error
}

// Receiver accepts one hand-over at a time from one container.
type Receiver struct {
	cfg    Config
	self   self
	socket *socket

	mu    sync.Mutex
	ns    *attach.Namespace // of the hand-over in force
	ready chan struct{}     // closed while ns is set
	state State

	ended chan struct{} // closed when Serve returns
}

// Listen makes the socket. Hand-overs are taken when Serve runs.
func Listen(cfg Config) (*Receiver, error) {
	if cfg.Silence == 0 {
		cfg.Silence = 2 * time.Second
	}
	if cfg.Pending == 0 {
		cfg.Pending = 8
	}
	if cfg.Threads == nil {
		return nil, errors.New("hand-over: Config.Threads is missing")
	}
	own, err := readSelf()
	if err != nil {
		return nil, fmt.Errorf("hand-over: %w", err)
	}
	s, err := listen(cfg.Socket)
	if err != nil {
		return nil, err
	}
	return &Receiver{cfg: cfg, self: own, socket: s, ready: make(chan struct{}), ended: make(chan struct{})}, nil
}

// Serve takes hand-overs until ctx ends, then closes the socket, every connection and the namespace. It runs once.
func (r *Receiver) Serve(ctx context.Context) error {
	var group errgroup.Group
	ctx, cancel := context.WithCancel(ctx)
	group.Go(func() error {
		<-ctx.Done()
		return r.socket.close()
	})
	err := r.accept(ctx, &group)
	cancel()
	err = errors.Join(err, group.Wait())
	close(r.ended)
	return err
}

func (r *Receiver) accept(ctx context.Context, group *errgroup.Group) error {
	pending := make(chan struct{}, r.cfg.Pending)
	for {
		conn, err := accept.Next(ctx, r.socket)
		switch {
		case errors.Is(err, accept.ErrOver):
			return nil
		case err != nil:
			return fmt.Errorf("accept hand-over: %w", err)
		}
		c := conn.(*net.UnixConn)
		if r.State().Ready {
			r.refuse(c, ErrTaken)
			accept.Rest(ctx)
			continue
		}
		select {
		case pending <- struct{}{}:
			group.Go(func() error {
				r.serve(ctx, c, func() { <-pending })
				return nil
			})
		default:
			r.refuse(c, errCrowded)
			accept.Rest(ctx)
		}
	}
}

// serve does one connection; decided is called when it waits no more.
func (r *Receiver) serve(ctx context.Context, c *net.UnixConn, decided func()) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	ns, err := r.take(c)
	if err != nil {
		r.refuse(c, err)
		accept.Rest(ctx)
		decided()
		return
	}
	decided()
	hold(c)
	r.release(ns)
	_ = c.Close()
}

// take reads the message, proves its descriptor and puts it in force.
func (r *Receiver) take(c *net.UnixConn) (*attach.Namespace, error) {
	if err := c.SetReadDeadline(time.Now().Add(r.cfg.Silence)); err != nil {
		return nil, err
	}
	f, err := receive(c)
	if err != nil {
		return nil, err
	}
	if err := r.self.verify(int(f.Fd())); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	ns, err := attach.NewNamespace(f, r.cfg.Threads)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := r.put(c, ns); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

// put answers the sender and publishes ns, unless another hand-over was quicker.
func (r *Receiver) put(c *net.UnixConn, ns *attach.Namespace) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ns != nil {
		return ErrTaken
	}
	if err := errors.Join(c.SetReadDeadline(time.Time{}), c.SetWriteDeadline(time.Now().Add(r.cfg.Silence))); err != nil {
		return err
	}
	if _, err := c.Write([]byte{accepted}); err != nil {
		return fmt.Errorf("answer hand-over: %w", err)
	}
	r.ns = ns
	r.state.Accepted++
	close(r.ready)
	return nil
}

// hold returns when the connection ends, or the process that made it: it may have given the connection to another container of the pod, and
// a container that has ended must make room for its successor. A second message ends it too.
func hold(c *net.UnixConn) {
	sender, err := peer(c)
	switch {
	case errors.Is(err, unix.ENOPROTOOPT): // nobody can tell
	case err != nil:
		return
	default:
		var watch sync.WaitGroup
		watch.Go(func() {
			_ = process.Wait(context.Background(), sender)
			_ = c.Close()
		})
		defer watch.Wait()
		defer func() { _ = sender.Close() }()
	}
	_, _ = io.CopyN(io.Discard, c, 1)
}

func (r *Receiver) release(ns *attach.Namespace) {
	r.mu.Lock()
	r.ns = nil
	r.ready = make(chan struct{})
	r.mu.Unlock()
	_ = ns.Close()
}

func (r *Receiver) refuse(c *net.UnixConn, why error) {
	_ = c.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Refused++
	r.state.LastRefusal = why
}

// State returns the receiver's state at this moment.
func (r *Receiver) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.state
	s.Ready = r.ns != nil
	return s
}

// Ready returns a channel that is closed while, or as soon as, a verified hand-over is in force. Ask again after the hand-over
// ended.
func (r *Receiver) Ready() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ready
}

// Namespace returns the namespace of the hand-over in force, and waits for one. The receiver closes it when the connection ends;
// what is under way in it then, or is tried later, gets attach.ErrGone.
func (r *Receiver) Namespace(ctx context.Context) (*attach.Namespace, error) {
	for {
		r.mu.Lock()
		ns, ready := r.ns, r.ready
		r.mu.Unlock()
		if ns != nil {
			return ns, nil
		}
		select {
		case <-ready:
		case <-r.ended:
			return nil, attach.ErrGone
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the container's hand-over: %w", ctx.Err())
		}
	}
}
