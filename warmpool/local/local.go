// Package local is a backend of sandboxes on one Linux machine, without a cluster: containers by runc, kept warm in a pool per
// SandboxSet, with their state in one directory, so that the process may be killed at any moment and the next one takes over
// what lives. It knows neither HTTP nor where the sets come from.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

// Pool are the settings of the pools. Zero values stand for the defaults named.
type Pool struct {
	// Sets are the pools wanted now. Changed returns a channel that is closed when they next change; nil: they never do.
	Sets    func() []v1alpha1.SandboxSet
	Changed func() <-chan struct{}
	// Max sandboxes at a time, stock included; 512.
	Max int
	// MaxMounts is how many mounts a sandbox may have; mount.DefaultMaxMounts.
	MaxMounts int
	// Parallel is how many sandboxes are made at the same time; 2.
	Parallel int
	// Grace is how long a claimed sandbox may take to be started before it is ended; 2 minutes.
	Grace time.Duration
	// MakeTimeout and EndTimeout bound the making and the ending of one sandbox; 30 s and 20 s.
	MakeTimeout, EndTimeout time.Duration
	// Reader brings what the volumes of pools are made of; sets that name claims or PersistentVolumes need it. Default is for those that name
	// nobody; volume.Unbound when empty.
	Reader  volume.Reader
	Default volume.Default
	// Node is the name of the machine, by which volumes are bound to it.
	Node string
	// Clock is the real one when nil.
	Clock clock.WithTicker
}

func (p *Pool) defaults() error {
	if p.Sets == nil {
		return errors.New("local: Pool.Sets is missing; it names the pools to keep")
	}
	setDefault(&p.Max, 512)
	setDefault(&p.MaxMounts, mount.DefaultMaxMounts)
	setDefault(&p.Parallel, 2)
	setDefault(&p.Grace, 2*time.Minute)
	setDefault(&p.MakeTimeout, 30*time.Second)
	setDefault(&p.EndTimeout, 20*time.Second)
	if p.Changed == nil {
		p.Changed = func() <-chan struct{} { return nil }
	}
	if p.Clock == nil {
		p.Clock = clock.RealClock{}
	}
	return nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Backend keeps the pools of one machine. Its methods wait until Run has taken over what an earlier process left.
type Backend struct {
	cfg     Pool
	log     *slog.Logger
	machine machine
	key     []byte // of the tokens
	size    machineSize
	made    string // digest of what sandboxes are made of
	version string // of the daemon
	unlock  func()
	drivers map[string]node.Driver

	wake    chan struct{} // a step of Run is due
	look    chan struct{} // what mounts lack is to be looked at
	adopted chan struct{} // closed when claims may begin
	stopped chan struct{} // closed when Run ends
	active  traffic
	work    sync.WaitGroup

	mu        sync.Mutex // guards what follows
	pools     map[string]*pool
	sandboxes map[warmpool.ID]*sandbox
	making    int
	noted     map[string]bool // what was said once
}

// sandbox is one that exists, or is being ended. Its fields are guarded by Backend.mu, but for what has a lock of its own.
type sandbox struct {
	record
	box      box
	made     time.Time
	reason   string
	faults   map[string]string        // what is wrong with its mounts, by id
	seen     map[string]node.Health   // how its mounts were at the last look, by id
	looked   time.Time                // when that was found out
	changing map[string]chan struct{} // the mounts that a request is changing, by id; closed when it has
	given    map[string]mount.Mount   // what it was asked to mount by this process, with the credentials, by id
	lacks    map[string]lack          // what could not be given to its mounts, by id
	history  []warmpool.Usage
	last     sample
	cancel   context.CancelFunc // of a Start under way
	ending   bool
	retry    time.Time     // when to try ending it again
	dying    chan struct{} // closed when its end begins
	ended    chan struct{} // closed when nothing is left of it

	starting sync.RWMutex // held by Start, for reading by changes of its mounts, and by an ending that waits for them
	saving   sync.Mutex   // orders writes of the record
	tended   sync.Mutex   // held while its mounts are given what they lack, and by its end
}

func newBackend(cfg Pool, log *slog.Logger, m machine, key []byte, size machineSize, made, version string) (*Backend, error) {
	if err := cfg.defaults(); err != nil {
		return nil, err
	}
	return &Backend{
		cfg: cfg, log: log, machine: m, key: key, size: size, made: made, version: version, unlock: func() {},
		wake: make(chan struct{}, 1), look: make(chan struct{}, 1), adopted: make(chan struct{}), stopped: make(chan struct{}),
		pools: map[string]*pool{}, sandboxes: map[warmpool.ID]*sandbox{}, noted: map[string]bool{},
	}, nil
}

// ready waits until what an earlier process left has been taken over.
func (b *Backend) ready(ctx context.Context) error {
	select {
	case <-b.stopped:
		return errStopped
	default:
	}
	select {
	case <-b.adopted:
		return nil
	case <-b.stopped:
		return errStopped
	case <-ctx.Done():
		return &warmpool.Error{Code: warmpool.Unavailable, Message: "the sandboxes of this machine are being looked at after a restart; try again", RetryAfter: time.Second, Err: ctx.Err()}
	}
}

func (b *Backend) poke() { signal(b.wake) }

// signal wakes whoever receives from c, a channel that holds one, unless he was woken already.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// find is the pool of a template name or alias; names go before aliases.
func (b *Backend) find(name string) (*pool, error) {
	if p := b.pools[name]; p != nil && !p.removed {
		return p, nil
	}
	for _, p := range b.sorted() {
		if slices.Contains(p.aliases, name) {
			return p, nil
		}
	}
	return nil, warmpool.Errorf(warmpool.NotFound, "template '%s' not found", name)
}

func (b *Backend) sorted() []*pool {
	out := make([]*pool, 0, len(b.pools))
	for _, p := range b.pools {
		if !p.removed {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(x, y *pool) int { return strings.Compare(x.name, y.name) })
	return out
}

// Template finds a pool by name or alias.
func (b *Backend) Template(ctx context.Context, name string) (warmpool.Template, error) {
	if err := b.ready(ctx); err != nil {
		return warmpool.Template{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p, err := b.find(name)
	if err != nil {
		return warmpool.Template{}, err
	}
	return b.template(p), nil
}

// Templates lists the pools by name.
func (b *Backend) Templates(ctx context.Context) ([]warmpool.Template, error) {
	if err := b.ready(ctx); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []warmpool.Template
	for _, p := range b.sorted() {
		out = append(out, b.template(p))
	}
	return out, nil
}

func (b *Backend) template(p *pool) warmpool.Template {
	t := warmpool.Template{
		Name: p.name, Aliases: slices.Clone(p.aliases), Runtimes: slices.Clone(p.runtimes), Resources: p.resources, Owner: p.owner,
		Containers: containersOf(p.names, p.limits.Memory), Reserved: slices.Clone(p.reserved), Desired: p.replicas,
		Namespace: p.namespace, Volumes: volumesOf(p.volumes), Ready: len(p.stock),
		CreatedAt: p.created, UpdatedAt: p.updated, EnvdVersion: b.version, Reason: p.reason,
	}
	for _, s := range b.sandboxes {
		if s.claimed() && s.Template == p.name {
			t.Claimed++
		}
	}
	return t
}

// containersOf are a template's containers. Only the first one is run here.
func containersOf(names []string, memory int64) (out []warmpool.Container) {
	for i, name := range names {
		c := warmpool.Container{Name: name}
		if i == 0 {
			c.Mounts, c.Memory = true, memory
		}
		out = append(out, c)
	}
	return out
}

func (s *sandbox) claimed() bool {
	return !s.ending && (s.State == warmpool.Claimed || s.State == warmpool.Running || s.State == warmpool.Failed && s.Nonce != "")
}

// view is the sandbox as callers see it.
func (b *Backend) view(s *sandbox) warmpool.Sandbox {
	out := warmpool.Sandbox{
		ID: s.ID, Template: s.Template, Aliases: slices.Clone(s.Aliases), Principal: s.Principal, State: s.State, Reason: s.reason,
		Metadata: clone(s.Metadata), StartedAt: s.StartedAt, EndAt: s.EndAt, Resources: s.Resources, EnvdVersion: b.version,
		Token: b.token(s.record), AllowInternet: s.Internet, MadeFrom: b.madeFrom(s.record), Node: b.cfg.Node,
	}
	for _, spec := range s.Mounts {
		out.Mounts = append(out.Mounts, s.status(spec))
	}
	return out
}

func (s *sandbox) status(spec mount.Spec) warmpool.MountStatus {
	st := warmpool.MountStatus{Spec: spec, Phase: warmpool.MountPending, MountedAt: s.Mounted[spec.ID]}
	switch {
	case s.faults[spec.ID] != "":
		st.Phase, st.Verdict, st.Message = warmpool.MountFailed, warmpool.MountVerdict(s.seen[spec.ID].Verdict), s.faults[spec.ID]
		if why := s.lacks[spec.ID].why; why != "" {
			st.Message += "; " + why
		}
	case !st.MountedAt.IsZero():
		st.Phase, st.Verdict = warmpool.MountReady, warmpool.MountLive
		if h := s.seen[spec.ID]; h.Works() { // else it was mounted again since
			st.Verdict, st.Message = warmpool.MountVerdict(h.Verdict), h.Message
		}
	}
	return st
}

// madeFrom is the template that a sandbox was made from; its set may be another one by now, or gone.
func (b *Backend) madeFrom(r record) warmpool.Template {
	t := warmpool.Template{
		Name: r.Template, Aliases: slices.Clone(r.Aliases), Resources: r.Resources, EnvdVersion: b.version,
		Runtimes: r.Runtimes, Containers: containersOf(r.Containers, r.MemoryLimit), Reserved: r.Reserved, Owner: r.Owner,
		Namespace: r.Namespace, Volumes: volumesOf(r.Volumes),
	}
	if p := b.pools[r.Template]; p != nil && len(r.Containers) == 0 {
		t.Runtimes, t.Containers, t.Reserved, t.Owner = p.runtimes, containersOf(p.names, p.limits.Memory), p.reserved, p.owner
	}
	return t
}

func (b *Backend) token(r record) warmpool.Token {
	if r.Nonce == "" {
		return ""
	}
	return warmpool.Token(initialize.Token(b.key, string(r.ID), r.Nonce))
}

func clone(m map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// persist writes what the record is now.
func (b *Backend) persist(s *sandbox) error {
	s.saving.Lock()
	defer s.saving.Unlock()
	b.mu.Lock()
	r := s.record
	b.mu.Unlock()
	return b.machine.Save(r)
}

// jitter spreads d by a fifth either way, so that what failed together does not come back together.
func jitter(d time.Duration) time.Duration {
	return d - d/5 + time.Duration(rand.Int64N(int64(2*d/5)+1))
}

func codeless(id warmpool.ID) error {
	return warmpool.Errorf(warmpool.NotFound, "sandbox %s not found", id)
}

// note logs something an operator should read once.
func (b *Backend) note(key, message string, args ...any) {
	if !b.noted[key] {
		b.noted[key] = true
		b.log.Info(message, args...)
	}
}

var errStopped error = &warmpool.Error{Code: warmpool.Unavailable, Message: "the service is shutting down; try again", RetryAfter: time.Second}

var errDead = fmt.Errorf("the sandbox's first process has ended: %w", warmpool.ErrUnreachable)
