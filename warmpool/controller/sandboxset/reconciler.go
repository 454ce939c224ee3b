// Package sandboxset keeps the pools full: it makes the Sandboxes that a SandboxSet lacks, takes away those it has too many of, and
// replaces those that failed or are of an older revision. It knows neither pods nor claims; a Sandbox that is claimed is none of its
// business any more.
package sandboxset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/controller/injection"
)

// Config is what a Reconciler needs. Fields without a default are required.
type Config struct {
	// Client reads from the cache and writes to the API server.
	Client client.Client
	// Live reads from the API server.
	Live client.Reader
	// Injection is the injection configuration in force.
	Injection *injection.Current
	Events    events.EventRecorder
	// MaxMounts is how many mounts a sandbox may have; mount.DefaultMaxMounts.
	MaxMounts int
	// Parallel is how many Sandboxes of one set are made or deleted at the same time; 16.
	Parallel int
	// Pace is the shortest time between two writes of a set's status that tell nothing but other numbers; 1 s.
	Pace time.Duration
	// Clock is the real one when nil.
	Clock clock.PassiveClock
	Log   *slog.Logger
}

// Reconciler reconciles SandboxSets.
type Reconciler struct {
	cfg Config

	mu   sync.Mutex
	sets map[client.ObjectKey]*memory
}

// New makes a Reconciler; Setup gives it to a manager.
func New(cfg Config) (*Reconciler, error) {
	switch {
	case cfg.Client == nil || cfg.Live == nil:
		return nil, errors.New("sandboxset: Client and Live are needed")
	case cfg.Injection == nil:
		return nil, errors.New("sandboxset: Injection is needed; its digest is part of every revision")
	case cfg.Events == nil || cfg.Log == nil:
		return nil, errors.New("sandboxset: Events and Log are needed")
	}
	if cfg.MaxMounts == 0 {
		cfg.MaxMounts = mount.DefaultMaxMounts
	}
	if cfg.Parallel == 0 {
		cfg.Parallel = 16
	}
	if cfg.Pace == 0 {
		cfg.Pace = time.Second
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	return &Reconciler{cfg: cfg, sets: map[client.ObjectKey]*memory{}}, nil
}

// Reconcile brings one set nearer to what its spec asks for.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var set v1alpha1.SandboxSet
	if err := r.cfg.Client.Get(ctx, req.NamespacedName, &set); err != nil {
		r.forget(req.NamespacedName)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if set.DeletionTimestamp != nil { // its stock goes with it; what is claimed is not its own
		r.forget(req.NamespacedName)
		return ctrl.Result{}, nil
	}
	var list v1alpha1.SandboxList
	if err := r.cfg.Client.List(ctx, &list, client.InNamespace(set.Namespace), client.MatchingFields{indexPool: set.Name}, client.UnsafeDisableDeepCopy); err != nil {
		return ctrl.Result{}, fmt.Errorf("list the sandboxes of %s: %w", set.Name, err)
	}
	m := r.recall(&set)
	revision, fault := r.revision(&set)
	if errors.Is(fault, injection.ErrUnknown) {
		return ctrl.Result{RequeueAfter: time.Second}, nil
	}
	p := &pass{r: r, set: &set, memory: m, now: r.cfg.Clock.Now(), revision: revision, fault: asFault(fault)}
	p.count(list.Items)
	return p.run(ctx)
}

// pass is one reconciliation of one set.
type pass struct {
	r        *Reconciler
	set      *v1alpha1.SandboxSet
	memory   *memory
	now      time.Time
	revision string // empty when there is a fault
	fault    *fault // keeps anything from being made

	stock   stock
	refused string        // what the API server said when it made nothing
	next    time.Duration // until the next look, 0 for none
}

// fault is why a set cannot be filled.
type fault struct{ reason, message string }

func (f *fault) Error() string { return f.message }

func asFault(err error) *fault {
	var f *fault
	if err == nil || errors.As(err, &f) {
		return f
	}
	return &fault{"Error", err.Error()}
}

// again asks for another look after d at the latest.
func (p *pass) again(d time.Duration) {
	if d = max(d, time.Millisecond); p.next == 0 || d < p.next {
		p.next = d
	}
}

func (p *pass) run(ctx context.Context) (ctrl.Result, error) {
	err := p.verify(ctx)
	if err == nil {
		err = p.replaceFailed(ctx)
	}
	if err == nil {
		err = p.shrink(ctx)
	}
	if err == nil && p.fault == nil {
		err = p.roll(ctx)
	}
	if err == nil && p.fault == nil {
		err = p.grow(ctx)
	}
	if err = errors.Join(err, p.report(ctx)); err != nil {
		if apierrors.IsConflict(err) { // somebody has changed something; the cache will say what
			return ctrl.Result{RequeueAfter: 100 * time.Millisecond}, nil
		}
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: p.next}, nil
}

func (p *pass) warn(reason, format string, args ...any) {
	injection.Tell(p.r.cfg.Events, p.set, corev1.EventTypeWarning, reason, "Fill", fmt.Sprintf(format, args...))
}
