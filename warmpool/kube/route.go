package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"time"

	"github.com/sandgate-dev/sandgate/injector/envd/tunnel"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// way is the road to one pod. It ends with the sandbox, and when the sandbox gets another pod or address: then whoever asks gets
// another one. Guarded by the shelf's lock, but for ip and gone, which stay as they are.
type way struct {
	ip   string
	pod  string
	gone chan struct{}
	over bool
}

// follow ends the way when sb's state says that it leads nowhere any more.
func (w *way) follow(sb *v1alpha1.Sandbox) {
	if w == nil || w.over {
		return
	}
	pod := sb.Status.PodInfo.PodUID
	if w.pod == "" {
		w.pod = pod
	}
	if sb.DeletionTimestamp != nil || stateOf(sb) == warmpool.Failed || sb.Status.SandboxIP != w.ip || pod != w.pod {
		w.end()
	}
}

func (w *way) end() {
	if w != nil && !w.over {
		w.over = true
		close(w.gone)
	}
}

// way is the road to a Sandbox, nil when it has no address.
func (s *shelf) way(sb *v1alpha1.Sandbox) *way {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byUID[sb.UID]
	if e == nil || e.sb.Status.SandboxIP == "" {
		return nil
	}
	if e.route == nil || e.route.over {
		e.route = &way{ip: e.sb.Status.SandboxIP, pod: e.sb.Status.PodInfo.PodUID, gone: make(chan struct{})}
	}
	return e.route
}

// Route is the way to the ports of a running sandbox, over its pod's address: a service that listens on the sandbox's loopback
// alone cannot be reached, since the gateway is on another network than the pod.
func (b *Backend) Route(ctx context.Context, id warmpool.ID) (warmpool.Route, error) {
	sb, err := b.find(ctx, id)
	if err != nil {
		return warmpool.Route{}, err
	}
	if b.state(sb) != warmpool.Running {
		return warmpool.Route{}, notFound(id)
	}
	w := b.shelf.way(sb)
	if w == nil {
		return warmpool.Route{}, &warmpool.Error{
			Code: warmpool.Unavailable, Message: "the sandbox has no address at the moment; try again", RetryAfter: time.Second,
		}
	}
	token := b.cfg.Keys.Token(id, sb.Spec.Claim.Nonce).Reveal()
	return warmpool.Route{
		Gone: w.gone,
		Dial: func(ctx context.Context, port uint16) (net.Conn, error) { return b.dial(ctx, w.ip, port, token) },
	}, nil
}

// dial connects to a port at a pod's address, and, if nobody listens there, to that of the pod's loopback through the daemon.
func (b *Backend) dial(ctx context.Context, ip string, port uint16, token string) (net.Conn, error) {
	if port == v1alpha1.AgentPort { // not its owner's
		return nil, fmt.Errorf("port %d: %w", port, syscall.ECONNREFUSED)
	}
	to := func(port uint16) (net.Conn, error) {
		return b.dialer.DialContext(ctx, "tcp", net.JoinHostPort(ip, strconv.Itoa(int(port))))
	}
	c, err := to(port)
	if !errors.Is(err, syscall.ECONNREFUSED) || port == v1alpha1.EnvdPort {
		return c, err
	}
	daemon, down := to(v1alpha1.EnvdPort)
	if down != nil {
		return nil, err
	}
	return tunnel.Through(ctx, daemon, port, token)
}
