package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/utils/clock"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

// Limits bound what a caller may ask for and how long the gateway tries.
type Limits struct {
	// MaxTimeout is the longest a sandbox may be told to live from now.
	MaxTimeout time.Duration
	// Create is how long a create request may take: claiming, mounting and waiting for stock.
	Create time.Duration
	// Undo is how long the clean-up after a failed create may take; it outlives the request.
	Undo time.Duration
	// Team bounds what a team may have.
	Team TeamLimits
}

// DefaultLimits suit clients that give a request 60 seconds.
func DefaultLimits() Limits {
	return Limits{MaxTimeout: 24 * time.Hour, Create: 30 * time.Second, Undo: 30 * time.Second}
}

// Config is what a Service is made of.
type Config struct {
	Backend Backend
	// Reader brings the objects that volumes are made of.
	Reader volume.Reader
	Policy mount.Policy
	// Plugins are the drivers of Policy that only sandboxes with a runtime of theirs have.
	Plugins volume.Plugins
	// Node is the name of the only one that there is; empty where there are more.
	Node string
	// Volumes is for those whose annotations name nobody; volume.Unbound when empty.
	Volumes volume.Default
	Limits  Limits
	// Observer is told what requests go through; nil: nobody.
	Observer Observer
	// Clock is the real one when nil.
	Clock clock.PassiveClock
	// Logger is slog's default when nil.
	Logger *slog.Logger
}

// Service is the gateway's use cases.
type Service struct {
	backend Backend
	reader  volume.Reader
	policy  mount.Policy
	plugins volume.Plugins
	node    *string
	volumes volume.Default
	limits  Limits
	quota   quota
	observe Observer
	clock   clock.PassiveClock
	logger  *slog.Logger
}

// New makes a Service.
func New(c Config) (*Service, error) {
	switch {
	case c.Backend == nil:
		return nil, errors.New("gateway: a Backend is required")
	case c.Reader == nil:
		return nil, errors.New("gateway: a Reader of volumes is required")
	case c.Limits.Team.Mounts < 0 || c.Limits.Team.Mounted < 0:
		return nil, errors.New("gateway: a team's limits must not be negative; 0 is none")
	case c.Policy.MaxMounts < 1:
		return nil, errors.New("gateway: a sandbox must be allowed at least one mount")
	case c.Limits.MaxTimeout <= 0 || c.Limits.Create <= 0 || c.Limits.Undo <= 0:
		return nil, errors.New("gateway: every limit must be positive; start from DefaultLimits")
	case len(c.Policy.Drivers) == 0:
		return nil, errors.New("gateway: the mount policy allows no driver; start from mount.DefaultPolicy")
	}
	s := &Service{backend: c.Backend, reader: c.Reader, policy: c.Policy, plugins: c.Plugins, volumes: c.Volumes, limits: c.Limits, quota: quota{limits: c.Limits.Team}, observe: c.Observer, clock: c.Clock, logger: c.Logger}
	if c.Node != "" {
		s.node = &c.Node
	}
	if s.observe == nil {
		s.observe = unobserved{}
	}
	if s.clock == nil {
		s.clock = clock.RealClock{}
	}
	if s.logger == nil {
		s.logger = slog.Default()
	}
	return s, nil
}

// Limits are what callers are held to.
func (s *Service) Limits() Limits { return s.limits }

// MaxMounts is how many mounts a sandbox may have.
func (s *Service) MaxMounts() int { return s.policy.MaxMounts }

// Template finds a template by name or alias.
func (s *Service) Template(ctx context.Context, name string) (warmpool.Template, error) {
	return s.backend.Template(ctx, name)
}

// Templates lists the templates by name.
func (s *Service) Templates(ctx context.Context) ([]warmpool.Template, error) {
	return s.backend.Templates(ctx)
}

// checkTimeout refuses an end that is past or too far away.
func (s *Service) checkTimeout(d time.Duration) error {
	if d <= 0 || d > s.limits.MaxTimeout {
		return warmpool.Errorf(warmpool.Invalid, "timeout must be between 1 and %d seconds", int(s.limits.MaxTimeout.Seconds()))
	}
	return nil
}

// coded gives errors of an ended context their code, so that a caller learns whether to try again.
func coded(err error) error {
	var known *warmpool.Error
	switch {
	case err == nil, errors.As(err, &known):
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return &warmpool.Error{Code: warmpool.Unavailable, Message: "the sandbox was not ready in time; try again", Err: err}
	case errors.Is(err, context.Canceled):
		return &warmpool.Error{Code: warmpool.Unavailable, Message: "the request was cancelled", Err: err}
	}
	return fmt.Errorf("backend: %w", err)
}
