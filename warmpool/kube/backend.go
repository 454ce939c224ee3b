// Package kube is the backend of sandboxes on Kubernetes: it claims Sandbox objects that the controller has made ready, fits them
// out over their pods' addresses and finds them again. All state lies in the API server; what a replica keeps is a view of it, so
// that any number of replicas may run. It builds no pods and knows neither HTTP APIs nor who may ask.
package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/kube/keyring"
)

// Config is what a Backend needs. Fields without a default are required.
type Config struct {
	// Client speaks to the API server itself, without a cache.
	Client client.Client
	// Cache has the Sandboxes and SandboxSets of the pool namespaces. Whoever made it runs it.
	Cache cache.Cache
	// Namespaces are those of the pools.
	Namespaces []string
	// ReleaseNamespace is where the records of Idempotency-Keys are kept. Without it they are not supported.
	ReleaseNamespace string
	// Keys are the installation's.
	Keys keyring.Keys
	// Fitter reaches sandboxes.
	Fitter *Fitter
	// Checks say what the driver of that name would refuse.
	Checks map[string]Check
	// EnvdVersion is the version of the daemon's wire.
	EnvdVersion string
	// Cold is how many sandboxes this replica may have in the making for requests that found no stock; 16. Below 0: none.
	Cold int
	// Warm is how many ready sandboxes this replica keeps a connection to; 256. Below 0: none.
	Warm int
	// Lease is how long a create with an Idempotency-Key may be under way, its clean-up included; after that whoever asks again takes
	// it over. 2 minutes.
	Lease time.Duration
	// Request names the request that a context serves, for the record in the claim; nil: none.
	Request func(ctx context.Context) string
	// Observer is told what happens; nil: nobody.
	Observer Observer
	// Clock is the real one when nil.
	Clock clock.WithTicker
	// Log is required.
	Log *slog.Logger
}

// Check says what is wrong with a mount that can be told from it alone, as node.Driver's Check.
type Check func(m mount.Mount) error

const (
	// The defaults of Config.
	defaultCold  = 16
	defaultWarm  = 256
	defaultLease = 2 * time.Minute
	// undo bounds what is tidied up after a request, which it outlives.
	undo = 30 * time.Second
	// liveRate and liveBurst bound the reads of IDs that the informer does not know: anybody may ask for any.
	liveRate, liveBurst = 50, 100
)

func (c *Config) check() error {
	switch {
	case c.Client == nil || c.Cache == nil:
		return errors.New("kube: Client and Cache are needed")
	case len(c.Namespaces) == 0:
		return errors.New("kube: Namespaces is empty; name those that have pools")
	case c.Keys.ID == "":
		return errors.New("kube: Keys are needed; load them from the release namespace")
	case c.Fitter == nil:
		return errors.New("kube: a Fitter is needed; nothing else reaches sandboxes")
	case c.EnvdVersion == "":
		return errors.New("kube: EnvdVersion is needed; SDKs ask for it")
	case c.Log == nil:
		return errors.New("kube: Log is needed")
	}
	setDefault(&c.Cold, defaultCold)
	setDefault(&c.Warm, defaultWarm)
	setDefault(&c.Lease, defaultLease)
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	if c.Observer == nil {
		c.Observer = unobserved{}
	}
	if c.Request == nil {
		c.Request = func(context.Context) string { return "" }
	}
	return nil
}

func setDefault[T ~int | ~int64](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// Backend is one replica's.
type Backend struct {
	cfg     Config
	shelf   *shelf
	sets    *sets
	starts  starts
	visits  visits
	unknown *unknown
	live    *rate.Limiter
	reads   singleflight.Group
	cold    chan struct{} // a token for each sandbox in the making
	bound   chan struct{} // the same for those that only certain nodes will do for
	dialer  net.Dialer
	warmer  *warmer
	synced  atomic.Bool
	handles []toolscache.ResourceEventHandlerRegistration
	work    sync.WaitGroup // of what outlives a request
	stopped chan struct{}  // closed when Run ends
}

// New makes a Backend and registers it with the cache, which may be started before or after. Run makes it usable.
func New(ctx context.Context, cfg Config) (*Backend, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	b := &Backend{
		cfg: cfg, shelf: newShelf(cfg.Clock.Now), sets: newSets(cfg.Log), unknown: newUnknown(cfg.Clock), starts: starts{now: cfg.Clock.Now, mine: map[warmpool.ID]*begun{}},
		live: rate.NewLimiter(liveRate, liveBurst), cold: make(chan struct{}, max(cfg.Cold, 0)), bound: make(chan struct{}, max(cfg.Cold, 0)), stopped: make(chan struct{}),
	}
	b.warmer = newWarmer(max(cfg.Warm, 0), cfg.Fitter)
	b.shelf.ready = b.warmer.add
	for _, kind := range []struct {
		object  client.Object
		handler toolscache.ResourceEventHandler
	}{{&v1alpha1.Sandbox{}, sandboxEvents{b}}, {&v1alpha1.SandboxSet{}, setEvents{b.sets}}} {
		informer, err := cfg.Cache.GetInformer(ctx, kind.object)
		if err != nil {
			return nil, fmt.Errorf("kube: watch %T: %w", kind.object, err)
		}
		handle, err := informer.AddEventHandler(kind.handler)
		if err != nil {
			return nil, fmt.Errorf("kube: watch %T: %w", kind.object, err)
		}
		b.handles = append(b.handles, handle)
	}
	return b, nil
}

const (
	// tick is how often deadlines are looked at, sweep how often what was forgotten is; forgetAfter is how long what the informer
	// does not know may be so.
	tick        = time.Second
	sweep       = 30 * time.Second
	forgetAfter = time.Minute
)

// Run keeps the replica's view until ctx ends, and waits for what is still being tidied up then.
func (b *Backend) Run(ctx context.Context) error {
	defer b.work.Wait()
	defer close(b.stopped)
	b.work.Go(func() { b.warmer.run(ctx) })
	ticker := b.cfg.Clock.NewTicker(tick)
	defer ticker.Stop()
	swept := b.cfg.Clock.Now()
	for {
		if !b.synced.Load() && b.filled() {
			b.synced.Store(true)
			b.cfg.Log.Info("pools known", "namespaces", b.cfg.Namespaces, "templates", len(b.sets.list()))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		}
		now := b.cfg.Clock.Now()
		b.shelf.expire(now)
		if now.Sub(swept) >= sweep {
			swept = now
			b.tidy(ctx, now)
		}
	}
}

func (b *Backend) tidy(ctx context.Context, now time.Time) {
	b.shelf.forget(now.Add(-forgetAfter), func(sb *v1alpha1.Sandbox) bool {
		err := b.cfg.Cache.Get(ctx, client.ObjectKeyFromObject(sb), &v1alpha1.Sandbox{})
		return client.IgnoreNotFound(err) != nil || err == nil
	})
	b.unknown.tidy()
	b.starts.tidy(now.Add(-forgetAfter), func(id warmpool.ID) bool {
		sb, _ := b.shelf.find(id)
		return sb != nil && !ended(sb, now)
	})
}

// filled says whether the first lists have arrived.
func (b *Backend) filled() bool {
	for _, h := range b.handles {
		if !h.HasSynced() {
			return false
		}
	}
	return true
}

// Ready returns nil once the pools are known.
func (b *Backend) Ready() error {
	if b.synced.Load() || b.filled() {
		return nil
	}
	return errNotReady
}

var errNotReady error = &warmpool.Error{
	Code: warmpool.Unavailable, Message: "the gateway has just started and does not know its pools yet; try again", RetryAfter: time.Second,
}

// Check says what the driver of a volume would refuse, so that no sandbox is spent on it.
func (b *Backend) Check(m mount.Mount) error {
	check := b.cfg.Checks[m.Driver]
	if check == nil {
		return fmt.Errorf("%w: no driver %q is installed here", mount.ErrInvalid, m.Driver)
	}
	return check(m)
}

// Template finds a pool by name or alias.
func (b *Backend) Template(_ context.Context, name string) (warmpool.Template, error) {
	if err := b.Ready(); err != nil {
		return warmpool.Template{}, err
	}
	set, err := b.sets.find(name)
	if err != nil {
		return warmpool.Template{}, err
	}
	return b.template(set), nil
}

// Templates lists the pools by name.
func (b *Backend) Templates(context.Context) ([]warmpool.Template, error) {
	if err := b.Ready(); err != nil {
		return nil, err
	}
	var out []warmpool.Template
	for _, set := range b.sets.list() {
		out = append(out, b.template(set))
	}
	return out, nil
}

func (b *Backend) template(s *set) warmpool.Template {
	t := s.template
	t.EnvdVersion = b.cfg.EnvdVersion
	t.Ready, t.Claimed = b.shelf.counts(s.UID, s.pool())
	return t
}
