package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// Config is what a Node needs. Fields without a default are required.
type Config struct {
	// Dir is a directory of this Node's own, mode 0700: the journal and the places where drivers mount.
	Dir string
	// Drivers are the drivers by name.
	Drivers map[string]Driver
	// Target finds a container of the sandbox by name; "" is the main one. It returns attach.ErrGone for one that has ended: then
	// its mounts have ended too, and are forgotten without a detach.
	Target func(ctx context.Context, container string) (Target, error)
	// Policy is applied to each mount again, together with those that live.
	Policy mount.Policy
	// Probe reads volumes that can hang.
	Probe Probe
	// PublishTimeout bounds one Publish; 30 s when zero.
	PublishTimeout time.Duration
	// FlushTimeout bounds the flush of a volume before it is detached; 5 s when zero.
	FlushTimeout time.Duration
	// DrainTimeout bounds the wait for a client to upload and end after its volume was detached; 10 s when zero.
	DrainTimeout time.Duration
	// LookEvery is between two reads of a volume that can hang and that nobody else looks at; 10 s when zero.
	LookEvery time.Duration
	// SlowAfter is how long a read may take before the volume counts as slow; 1 s when zero. Probe says when it counts as hung.
	SlowAfter time.Duration
	// HungAfter is how long a client may not answer before it is replaced by one that does, and killed; 30 s when zero.
	HungAfter time.Duration
	// Died is called when the client of a published mount has ended; nil for nobody. It must not call the Node.
	Died func(Live)
	// Clock is the real one when nil.
	Clock clock.Clock
	// Logger discards when nil.
	Logger *slog.Logger
}

// Node publishes volumes into one sandbox.
type Node struct {
	config   Config
	journal  journal
	staging  string
	locks    mount.Locks[place]
	watchers sync.WaitGroup // one for each client that lives
	carers   sync.WaitGroup // one for each volume that can hang
	ctx      context.Context
	stop     context.CancelFunc

	patience mount.Patience // by the volume's handle

	mu     sync.Mutex
	live   map[place]*entry
	past   map[place]*past
	held   map[string]*attach.Tree // of each ephemeral volume, by its handle
	told   map[string]bool         // which of them are lost and begin empty
	closed bool
}

// place is where a mount is: at most one is at a place.
type place struct{ container, target string }

// entry is a published mount. Its record is not modified; the rest is guarded by Node.mu.
type entry struct {
	record
	next    *record     // was being put in its place when an earlier process ended: finish says what came of it
	asked   mount.Mount // with its secrets, in memory only; without a Driver when an earlier process was asked
	dead    string      // why it does not work any more, for the caller to read
	process *os.File
	wake    chan struct{} // has something in it once it is dead; nil for what nobody cares for
	quit    chan struct{} // closed when nobody is to care any more
	look    look
}

// New makes the directories of a Node. Call Adopt before anything else when the sandbox may be older than this process.
func New(c Config) (*Node, error) {
	switch {
	case !filepath.IsAbs(c.Dir):
		return nil, errors.New("node: Dir must be an absolute path")
	case len(c.Drivers) == 0:
		return nil, errors.New("node: at least one driver is needed")
	case c.Target == nil:
		return nil, errors.New("node: Target is needed: who knows the containers?")
	case c.Probe == nil:
		return nil, errors.New("node: Probe is needed: nothing is mounted before it was read")
	}
	defaults(&c)
	n := &Node{config: c, journal: journal{filepath.Join(c.Dir, "journal")}, staging: filepath.Join(c.Dir, "staging"), live: map[place]*entry{}, past: map[place]*past{}, held: map[string]*attach.Tree{}, told: map[string]bool{}}
	n.ctx, n.stop = context.WithCancel(context.Background())
	for _, dir := range []string{c.Dir, n.journal.dir, n.staging} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("node: %w", err)
		}
		if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // directories need x
			return nil, fmt.Errorf("node: %w", err)
		}
	}
	return n, nil
}

func defaults(c *Config) {
	for d, value := range map[*time.Duration]time.Duration{
		&c.PublishTimeout: 30 * time.Second, &c.FlushTimeout: 5 * time.Second, &c.DrainTimeout: 10 * time.Second,
		&c.LookEvery: 10 * time.Second, &c.SlowAfter: time.Second, &c.HungAfter: 30 * time.Second,
	} {
		if *d <= 0 {
			*d = value
		}
	}
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Close stops watching clients and healing. Mounts stay as they are.
func (n *Node) Close() {
	n.stop()
	n.mu.Lock()
	n.closed = true
	for _, e := range n.live {
		e.unwatch()
	}
	for handle, tree := range n.held {
		_ = tree.Close()
		delete(n.held, handle)
	}
	n.mu.Unlock()
	n.watchers.Wait()
	n.carers.Wait()
}

// Finish waits until the clients of all mounts have ended, as they do once their container is gone and they have uploaded what it has
// written, or until ctx ends. Nothing may be published meanwhile.
func (n *Node) Finish(ctx context.Context) error {
	over := make(chan struct{})
	go func() { // ends with Close at the latest
		n.watchers.Wait()
		close(over)
	}()
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("not every volume's client has ended: %w", ctx.Err())
	}
}

func (n *Node) at(p place) *entry {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.live[p]
}

func (n *Node) entries() []*entry {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]*entry, 0, len(n.live))
	for _, e := range n.live {
		out = append(out, e)
	}
	return out
}

// add makes e known, in the place of whatever was there, and watches its client.
func (n *Node) add(e *entry) {
	var process *os.File
	var err error
	if e.Client.PID != 0 && e.dead == "" {
		process, err = n.open(n.ctx, e.Driver, e.Client)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.live[e.place()]; old != nil {
		old.unwatch()
	}
	n.live[e.place()] = e
	if n.closed {
		_ = process.Close()
		return
	}
	if e.Remote {
		n.care(e)
	}
	n.seen(e, process, err)
}

// seen watches the client that open has found, or notes that it has ended. One of which nobody can tell yet is left to care. Node.mu is held.
func (n *Node) seen(e *entry, process *os.File, err error) {
	switch {
	case process != nil:
		n.watch(e, process)
	case err != nil && !errors.Is(err, context.DeadlineExceeded):
		e.die(clientEnded)
	}
}

func (n *Node) forget(e *entry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e.unwatch()
	if n.live[e.place()] == e {
		delete(n.live, e.place())
		delete(n.past, e.place())
	}
}
