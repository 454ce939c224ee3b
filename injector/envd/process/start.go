package process

import (
	"context"
	"errors"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/sandgate-dev/sandgate/injector/envd/process/processpb"
	"github.com/sandgate-dev/sandgate/injector/envd/wire"
)

// Start runs a command and streams its life. The stream's deadline (Connect-Timeout-Ms) is the command's, too;
// a stream that breaks leaves the command alone.
func (s *Service) Start(ctx context.Context, req *connect.Request[processpb.StartRequest], stream *connect.ServerStream[processpb.StartResponse]) error {
	who, err := s.caller(req.Header())
	if err != nil {
		return err
	}
	select {
	case s.launching <- struct{}{}:
	case <-ctx.Done():
		return wire.Ended(ctx, "start")
	}
	p, err := s.launch(req.Msg, who)
	<-s.launching
	if err != nil {
		return err
	}
	sub := p.subscribe(ctx)
	defer p.unsubscribe(sub)
	if deadline, ok := ctx.Deadline(); ok {
		p.expire = time.AfterFunc(time.Until(deadline), func() {
			p.expired.Store(true)
			_ = p.signal(syscall.SIGKILL) // it may have ended in this very moment
		})
	}
	go s.run(p)
	return follow(ctx, p, sub, wire.Keepalive(req.Header()), func(e *processpb.ProcessEvent) error {
		if e.GetEnd() != nil && p.expired.Load() {
			return connect.NewError(connect.CodeDeadlineExceeded, errors.New("the command was killed at its timeout"))
		}
		return stream.Send(&processpb.StartResponse{Event: e})
	})
}

// Connect follows a process that runs already: what it says from now on. Of one that ended a moment ago, the end.
func (s *Service) Connect(ctx context.Context, req *connect.Request[processpb.ConnectRequest], stream *connect.ServerStream[processpb.ConnectResponse]) error {
	if _, err := s.caller(req.Header()); err != nil {
		return err
	}
	send := func(e *processpb.ProcessEvent) error { return stream.Send(&processpb.ConnectResponse{Event: e}) }
	p, err := s.find(req.Msg.GetProcess())
	if err != nil {
		pid, last, ok := s.findEnded(req.Msg.GetProcess())
		if !ok {
			return err
		}
		if err := send(startEvent(pid)); err != nil {
			return err
		}
		return send(last.event)
	}
	sub := p.subscribe(ctx)
	defer p.unsubscribe(sub)
	return follow(ctx, p, sub, wire.Keepalive(req.Header()), send)
}

// follow sends start, everything that reaches the subscriber, then the end; and keepalives whenever it was silent for
// an interval, so that proxies on the way do not take the connection for dead.
func follow(ctx context.Context, p *proc, sub *subscriber, interval time.Duration, send func(*processpb.ProcessEvent) error) error {
	if err := send(startEvent(p.pid)); err != nil {
		return err
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return wire.Ended(ctx, "stream")
		case e := <-sub.events:
			if err := send(e); err != nil {
				return err
			}
			tick.Reset(interval)
		case <-tick.C:
			if err := send(keepaliveEvent()); err != nil {
				return err
			}
		case <-p.done:
			return sendRest(p, sub, send)
		}
	}
}

// sendRest sends what was published before the end, and the end.
func sendRest(p *proc, sub *subscriber, send func(*processpb.ProcessEvent) error) error {
	for {
		select {
		case e := <-sub.events:
			if err := send(e); err != nil {
				return err
			}
		default:
			return send(p.end)
		}
	}
}

func startEvent(pid uint32) *processpb.ProcessEvent {
	return &processpb.ProcessEvent{Event: &processpb.ProcessEvent_Start{Start: &processpb.ProcessEvent_StartEvent{Pid: pid}}}
}

func keepaliveEvent() *processpb.ProcessEvent {
	return &processpb.ProcessEvent{Event: &processpb.ProcessEvent_Keepalive{Keepalive: &processpb.ProcessEvent_KeepAlive{}}}
}
