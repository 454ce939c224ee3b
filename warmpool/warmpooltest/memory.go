package warmpooltest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// Memory is a Backend whose sandboxes are records: for tests of what stands above a backend. The zero value of a hook does
// nothing. Its stock is not refilled: a template's Desired is all there ever is.
type Memory struct {
	// Node is that of all sandboxes, whichever a claim wants.
	Node string
	// OnCheck is what drivers say of a mount before anything is claimed.
	OnCheck func(m mount.Mount) error
	// OnClaim runs before a claim takes stock; its error is the claim's.
	OnClaim func(ctx context.Context, c warmpool.Claim) error
	// OnStart runs in Start of a claimed sandbox; its error is Start's, after which nothing of the mounts is left.
	OnStart func(ctx context.Context, id warmpool.ID, s warmpool.Start) error
	// OnPublish and OnUnpublish run before a running sandbox's mounts change; their error is the call's.
	OnPublish   func(ctx context.Context, id warmpool.ID, m mount.Mount) error
	OnUnpublish func(ctx context.Context, id warmpool.ID, m mount.Mount, force bool) error
	// OnRelease runs before a release; its error is the release's, and the sandbox stays.
	OnRelease func(ctx context.Context, id warmpool.ID) error
	// Samples are what Usage answers by sandbox.
	Samples map[warmpool.ID][]warmpool.Usage

	clock clock.PassiveClock

	mu        sync.Mutex // guards what follows
	templates map[string]*warmpool.Template
	claimed   map[warmpool.ID]*warmpool.Sandbox
	timeouts  map[warmpool.ID]time.Duration
	starts    map[warmpool.ID]warmpool.Start
}

// claimGrace is how long a claimed sandbox may take to be started before it ends by itself.
const claimGrace = time.Minute

// NewMemory makes a Memory with full stock of the templates.
func NewMemory(clk clock.PassiveClock, templates ...warmpool.Template) *Memory {
	m := &Memory{
		Samples:   map[warmpool.ID][]warmpool.Usage{},
		clock:     clk,
		templates: map[string]*warmpool.Template{},
		claimed:   map[warmpool.ID]*warmpool.Sandbox{},
		timeouts:  map[warmpool.ID]time.Duration{},
		starts:    map[warmpool.ID]warmpool.Start{},
	}
	for _, t := range templates {
		t.Ready, t.Claimed = t.Desired, 0
		m.templates[t.Name] = &t
	}
	return m
}

// Capacity is how many sandboxes the named template has in all.
func (m *Memory) Capacity(template string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.templates[template].Desired
}

// Claimed is how many sandboxes are out: zero after a test that must leave none.
func (m *Memory) Claimed() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reap()
	return len(m.claimed)
}

// Started is what a sandbox was started with.
func (m *Memory) Started(id warmpool.ID) warmpool.Start {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.starts[id]
}

// Fail makes a sandbox fail as if it had died.
func (m *Memory) Fail(id warmpool.ID, reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.claimed[id]; s != nil {
		s.State, s.Reason = warmpool.Failed, reason
	}
}

// Template finds a template by name or alias.
func (m *Memory) Template(_ context.Context, name string) (warmpool.Template, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.find(name)
	if t == nil {
		return warmpool.Template{}, warmpool.Errorf(warmpool.NotFound, "template %q not found", name)
	}
	return copyTemplate(*t), nil
}

// Templates lists the templates by name.
func (m *Memory) Templates(context.Context) ([]warmpool.Template, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []warmpool.Template
	for _, t := range m.templates {
		all = append(all, copyTemplate(*t))
	}
	slices.SortFunc(all, func(a, b warmpool.Template) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// Check asks OnCheck.
func (m *Memory) Check(mt mount.Mount) error {
	if m.OnCheck == nil {
		return nil
	}
	return m.OnCheck(mt)
}

// Claim takes a sandbox from stock.
func (m *Memory) Claim(ctx context.Context, c warmpool.Claim) (warmpool.Sandbox, error) {
	if m.OnClaim != nil {
		if err := m.OnClaim(ctx, c); err != nil {
			return warmpool.Sandbox{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return warmpool.Sandbox{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reap()
	t := m.find(c.Template)
	switch {
	case t == nil:
		return warmpool.Sandbox{}, warmpool.Errorf(warmpool.NotFound, "template %q not found", c.Template)
	case t.Ready == 0:
		return warmpool.Sandbox{}, &warmpool.Error{
			Code: warmpool.Exhausted, Message: "no sandbox of template " + t.Name + " is free", RetryAfter: 2 * time.Second,
		}
	}
	t.Ready--
	t.Claimed++
	now := m.clock.Now()
	s := &warmpool.Sandbox{
		ID: warmpool.NewID(), Template: t.Name, Aliases: slices.Clone(t.Aliases), Principal: c.Principal,
		State: warmpool.Claimed, Metadata: maps.Clone(c.Metadata), StartedAt: now, EndAt: now.Add(claimGrace),
		Resources: t.Resources, EnvdVersion: t.EnvdVersion, AllowInternet: c.AllowInternet == nil || *c.AllowInternet,
		MadeFrom: copyTemplate(*t), Node: m.Node,
	}
	for _, v := range t.Volumes {
		st := warmpool.MountStatus{Spec: v.Spec, Phase: warmpool.MountReady, Verdict: warmpool.MountLive, MountedAt: now}
		if v.AtClaim {
			st = warmpool.MountStatus{Spec: v.Spec, Phase: warmpool.MountPending}
		}
		s.Mounts = append(s.Mounts, st)
	}
	for _, spec := range c.Mounts {
		s.Mounts = append(s.Mounts, warmpool.MountStatus{Spec: spec, Phase: warmpool.MountPending})
	}
	m.claimed[s.ID], m.timeouts[s.ID] = s, c.Timeout
	return copySandbox(*s), nil
}

// Start makes a claimed sandbox run; its deadline counts from now.
func (m *Memory) Start(ctx context.Context, id warmpool.ID, start warmpool.Start) (warmpool.Sandbox, error) {
	switch s, err := m.Get(ctx, id); {
	case err != nil:
		return warmpool.Sandbox{}, err
	case s.State != warmpool.Claimed:
		return warmpool.Sandbox{}, warmpool.Errorf(warmpool.Conflict, "sandbox %s has been started already", id)
	}
	if m.OnStart != nil {
		if err := m.OnStart(ctx, id, start); err != nil {
			return warmpool.Sandbox{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return warmpool.Sandbox{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.claimed[id]
	if s == nil {
		return warmpool.Sandbox{}, gone(id)
	}
	now := m.clock.Now()
	s.State, s.EndAt, s.Token = warmpool.Running, now.Add(m.timeouts[id]), warmpool.Token("token-of-"+string(id))
	for i := range s.Mounts {
		s.Mounts[i].Phase, s.Mounts[i].Verdict, s.Mounts[i].MountedAt = warmpool.MountReady, warmpool.MountLive, now
	}
	m.starts[id] = start
	return copySandbox(*s), nil
}

// Get returns a claimed sandbox.
func (m *Memory) Get(_ context.Context, id warmpool.ID) (warmpool.Sandbox, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reap()
	s := m.claimed[id]
	if s == nil {
		return warmpool.Sandbox{}, gone(id)
	}
	return copySandbox(*s), nil
}

// List returns the claimed sandboxes that the filter chooses.
func (m *Memory) List(_ context.Context, f warmpool.Filter) ([]warmpool.Sandbox, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reap()
	var out []warmpool.Sandbox
	for _, s := range m.claimed {
		if matches(*s, f) {
			out = append(out, copySandbox(*s))
		}
	}
	return out, nil
}

// SetDeadline moves a sandbox's end.
func (m *Memory) SetDeadline(_ context.Context, id warmpool.ID, d warmpool.Deadline) (warmpool.Sandbox, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reap()
	s := m.claimed[id]
	if s == nil {
		return warmpool.Sandbox{}, gone(id)
	}
	if !d.OnlyLater || d.At.After(s.EndAt) {
		s.EndAt = d.At
	}
	return copySandbox(*s), nil
}

// Release ends a sandbox. Its stock does not come back: a claimed sandbox is never used again.
func (m *Memory) Release(ctx context.Context, id warmpool.ID) error {
	if m.OnRelease != nil {
		if err := m.OnRelease(ctx, id); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.claimed[id] == nil {
		return gone(id)
	}
	m.drop(id)
	return nil
}

// Usage answers the scripted samples.
func (m *Memory) Usage(ctx context.Context, id warmpool.ID) ([]warmpool.Usage, error) {
	if _, err := m.Get(ctx, id); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.Samples[id]), nil
}

// reap drops what has reached its end; the caller holds the lock.
func (m *Memory) reap() {
	now := m.clock.Now()
	for id, s := range m.claimed {
		if !now.Before(s.EndAt) {
			m.drop(id)
		}
	}
}

func (m *Memory) drop(id warmpool.ID) {
	m.templates[m.claimed[id].Template].Claimed--
	delete(m.claimed, id)
	delete(m.timeouts, id)
	delete(m.starts, id)
}

func (m *Memory) find(name string) *warmpool.Template {
	if t := m.templates[name]; t != nil {
		return t
	}
	for _, t := range m.templates {
		if slices.Contains(t.Aliases, name) {
			return t
		}
	}
	return nil
}

func matches(s warmpool.Sandbox, f warmpool.Filter) bool {
	for k, v := range f.Metadata {
		if got, ok := s.Metadata[k]; !ok || got != v {
			return false
		}
	}
	return cmp.Or(f.Team, s.Principal.Team) == s.Principal.Team &&
		(f.Template == "" || f.Template == s.Template || slices.Contains(s.Aliases, f.Template)) &&
		(len(f.States) == 0 || slices.Contains(f.States, s.State))
}

func gone(id warmpool.ID) error {
	return warmpool.Errorf(warmpool.NotFound, "sandbox %s not found", id)
}

func copySandbox(s warmpool.Sandbox) warmpool.Sandbox {
	s.Aliases, s.Metadata, s.Mounts = slices.Clone(s.Aliases), maps.Clone(s.Metadata), slices.Clone(s.Mounts)
	return s
}

func copyTemplate(t warmpool.Template) warmpool.Template {
	t.Aliases, t.Runtimes = slices.Clone(t.Aliases), slices.Clone(t.Runtimes)
	t.Containers, t.Reserved = slices.Clone(t.Containers), slices.Clone(t.Reserved)
	t.Volumes = slices.Clone(t.Volumes)
	return t
}
