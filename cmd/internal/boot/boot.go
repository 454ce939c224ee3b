// Package boot holds what every one of our processes needs at its start: the logger and the run group that ends on a signal.
package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"

	"github.com/oklog/run"
)

// Version is the version that this program was built as; `-ldflags "-X .../boot.Version=v1.2.3"` sets it.
var Version = "dev"

// Logger makes the process's logger: text for a terminal's reader, JSON for a collector. level is a slog level name.
func Logger(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: expected debug, info, warn or error", level)
	}
	opts := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("log format %q: expected text or json", format)
}

// Group is a run group of actors; the first to return stops all, and so does SIGINT or SIGTERM.
type Group struct {
	g run.Group
}

// Add adds an actor: f blocks until its work is over or its context ends.
func (g *Group) Add(name string, f func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	g.g.Add(func() error {
		if err := f(ctx); err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}, func(error) { cancel() })
}

// Run blocks until every actor has returned. A signal is a normal end.
func (g *Group) Run() error {
	g.g.Add(run.SignalHandler(context.Background(), os.Interrupt, syscall.SIGTERM))
	err := g.g.Run()
	if errors.Is(err, run.ErrSignal) {
		return nil
	}
	return err
}
