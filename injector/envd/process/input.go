package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/sandgate-dev/sandgate/injector/envd/process/processpb"
	"github.com/sandgate-dev/sandgate/injector/envd/wire"
)

// input is what a process reads: a pipe, or the terminal. Writers take turns, so that messages never mix.
type input struct {
	turn   chan struct{} // holds one token
	file   *os.File
	closed bool // guarded by turn
}

func newInput(f *os.File) *input {
	in := &input{turn: make(chan struct{}, 1), file: f}
	in.turn <- struct{}{}
	return in
}

var errClosed = errors.New("stdin not enabled or closed")

// write waits while the process does not read, until ctx ends.
func (in *input) write(ctx context.Context, data []byte) error {
	if err := in.take(ctx); err != nil {
		return err
	}
	defer in.give()
	if in.closed {
		return errClosed
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = in.file.SetWriteDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	_, err := in.file.Write(data)
	if !stop() {
		<-interrupted
		_ = in.file.SetWriteDeadline(time.Time{})
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	return err
}

// close gives end-of-file, after what was sent before. A second time it does nothing.
func (in *input) close(ctx context.Context) error {
	if err := in.take(ctx); err != nil {
		return err
	}
	defer in.give()
	if in.closed {
		return nil
	}
	in.closed = true
	return in.file.Close()
}

func (in *input) take(ctx context.Context) error {
	select {
	case <-in.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (in *input) give() { in.turn <- struct{}{} }

// abandon closes it after the process's end; a writer that still waits is interrupted.
func (in *input) abandon() {
	_ = in.file.SetWriteDeadline(time.Unix(1, 0))
	_ = in.close(context.Background())
}

// SendInput writes to standard input or to the terminal.
func (s *Service) SendInput(ctx context.Context, req *connect.Request[processpb.SendInputRequest]) (*connect.Response[processpb.SendInputResponse], error) {
	if _, err := s.caller(req.Header()); err != nil {
		return nil, err
	}
	p, err := s.find(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	if err := p.feed(ctx, req.Msg.GetInput()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&processpb.SendInputResponse{}), nil
}

// StreamInput writes messages in their order. The first must name the process.
func (s *Service) StreamInput(ctx context.Context, stream *connect.ClientStream[processpb.StreamInputRequest]) (*connect.Response[processpb.StreamInputResponse], error) {
	if _, err := s.caller(stream.RequestHeader()); err != nil {
		return nil, err
	}
	var p *proc
	for stream.Receive() {
		var err error
		switch e := stream.Msg().GetEvent().(type) {
		case *processpb.StreamInputRequest_Start:
			p, err = s.find(e.Start.GetProcess())
		case *processpb.StreamInputRequest_Data:
			if p == nil {
				return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("data came before the start that names its process"))
			}
			err = p.feed(ctx, e.Data.GetInput())
		case *processpb.StreamInputRequest_Keepalive:
		default:
			err = connect.NewError(connect.CodeUnimplemented, errors.New("the event must be start, data or keepalive"))
		}
		if err != nil {
			return nil, err
		}
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	return connect.NewResponse(&processpb.StreamInputResponse{}), nil
}

func (p *proc) feed(ctx context.Context, in *processpb.ProcessInput) error {
	var err error
	switch data := in.GetInput().(type) {
	case *processpb.ProcessInput_Stdin:
		if p.tty != nil {
			return connect.NewError(connect.CodeInternal, errors.New("the process has a terminal: send pty, not stdin"))
		}
		if p.input == nil {
			return connect.NewError(connect.CodeInternal, fmt.Errorf("writing to stdin of process %d: %w", p.pid, errClosed))
		}
		err = p.input.write(ctx, data.Stdin)
	case *processpb.ProcessInput_Pty:
		if p.tty == nil {
			return connect.NewError(connect.CodeInternal, errors.New("the process has no terminal: send stdin, not pty"))
		}
		err = p.input.write(ctx, data.Pty)
	default:
		return connect.NewError(connect.CodeUnimplemented, errors.New("the input must be stdin or pty"))
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return wire.Ended(ctx, "call")
	case errors.Is(err, syscall.EPIPE), errors.Is(err, os.ErrClosed), errors.Is(err, errClosed), errors.Is(err, syscall.EIO):
		return connect.NewError(connect.CodeInternal, fmt.Errorf("writing to process %d: its input is closed", p.pid))
	default:
		return connect.NewError(connect.CodeInternal, fmt.Errorf("writing to process %d: %w", p.pid, err))
	}
}

// CloseStdin gives end-of-file. A terminal has no such thing: there, send Ctrl+D.
func (s *Service) CloseStdin(ctx context.Context, req *connect.Request[processpb.CloseStdinRequest]) (*connect.Response[processpb.CloseStdinResponse], error) {
	if _, err := s.caller(req.Header()); err != nil {
		return nil, err
	}
	p, err := s.find(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	if p.tty != nil {
		return nil, connect.NewError(connect.CodeUnknown, errors.New("cannot close stdin of a process with a terminal: send Ctrl+D (0x04)"))
	}
	if p.input != nil {
		if err := p.input.close(ctx); err != nil {
			return nil, connect.NewError(connect.CodeUnknown, fmt.Errorf("closing stdin of process %d: %w", p.pid, err))
		}
	}
	return connect.NewResponse(&processpb.CloseStdinResponse{}), nil
}
