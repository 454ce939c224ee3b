package process

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/sandgate-dev/sandgate/injector/envd/process/processpb"
)

// SendSignal ends a process: SIGTERM asks its group, SIGKILL kills its session.
func (s *Service) SendSignal(ctx context.Context, req *connect.Request[processpb.SendSignalRequest]) (*connect.Response[processpb.SendSignalResponse], error) {
	if _, err := s.caller(req.Header()); err != nil {
		return nil, err
	}
	p, err := s.find(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	var sig syscall.Signal
	switch req.Msg.GetSignal() {
	case processpb.Signal_SIGNAL_SIGTERM:
		sig = syscall.SIGTERM
	case processpb.Signal_SIGNAL_SIGKILL:
		sig = syscall.SIGKILL
	default:
		return nil, connect.NewError(connect.CodeUnimplemented, fmt.Errorf("signal %s: only SIGNAL_SIGTERM and SIGNAL_SIGKILL can be sent", req.Msg.GetSignal()))
	}
	switch err := p.signal(sig); {
	case errors.Is(err, errGone):
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("process with pid %d not found", p.pid))
	case err != nil:
		return nil, connect.NewError(connect.CodeInternal, fmt.Errorf("signalling process %d: %w", p.pid, err))
	}
	if sig == syscall.SIGKILL {
		p.awaitExit(ctx)
	}
	return connect.NewResponse(&processpb.SendSignalResponse{}), nil
}

// killPatience bounds the wait for a killed process; one that the kernel holds in a call may take for ever.
const killPatience = time.Second

// awaitExit waits until a killed process has ended: who is told that it was killed finds it gone, and kills it once.
func (p *proc) awaitExit(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, killPatience)
	defer cancel()
	select {
	case <-p.exited:
	case <-ctx.Done():
	}
}

// Update resizes a terminal.
func (s *Service) Update(_ context.Context, req *connect.Request[processpb.UpdateRequest]) (*connect.Response[processpb.UpdateResponse], error) {
	if _, err := s.caller(req.Header()); err != nil {
		return nil, err
	}
	p, err := s.find(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	if req.Msg.GetPty() != nil {
		if p.tty == nil {
			return nil, connect.NewError(connect.CodeInternal, fmt.Errorf("resizing the terminal of process %d: it has none", p.pid))
		}
		if err := resize(p.tty, req.Msg.GetPty().GetSize()); err != nil {
			return nil, connect.NewError(connect.CodeInternal, fmt.Errorf("resizing the terminal of process %d: %w", p.pid, err))
		}
	}
	return connect.NewResponse(&processpb.UpdateResponse{}), nil
}
