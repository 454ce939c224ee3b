package sandbox

import (
	"cmp"
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// atOnce bounds the chores under way at sandboxes that go on. Those of sandboxes that end are bounded by nothing but their own time: none
// must wait for another one's volumes.
const atOnce = 256

// chores are what has to be done at sandboxes and takes the time that it takes there: a pod's agent may hang, and no worker of the
// controller hangs with it. Each sandbox has one chore at the most; what came of it is picked up by the next pass, which it wakes.
type chores struct {
	wake chan types.NamespacedName
	slot chan struct{}

	mu   sync.Mutex
	all  map[types.NamespacedName]*memory
	stop context.Context // ends them; nil when none may start
	work sync.WaitGroup
}

func newChores() *chores {
	return &chores{
		wake: make(chan types.NamespacedName, 1024), slot: make(chan struct{}, atOnce), all: map[types.NamespacedName]*memory{},
	}
}

// memory is what this process knows of a sandbox beside its status.
type memory struct {
	uid types.UID

	// Of the sandbox's own passes, which run one after another.
	dismissed types.UID    // the pod that was deleted from here
	renewal   *metav1.Time // of the agent's identity, until the status has it

	mu       sync.Mutex
	running  bool
	bounded  bool // the chore that is under way is one of a sandbox that goes on
	cancel   context.CancelFunc
	report   *report // of a chore that is done, until the status has it
	of       string  // what the last report was made of
	due      time.Time
	misses   int                    // in a row
	inited   time.Time              // when the daemon was last initialised from here
	deleted  time.Time              // when the sandbox was first seen to be deleted, by our own clock
	pod      string                 // the UID of a pod that is gone
	last     verdict                // on it
	detached bool                   // its volumes are off, or have had their time
	settled  int64                  // as the last report that had one said
	seen     bool                   // the report is in the status that is being written
	given    given                  // to its mounts
	recalled bool                   // mounts holds
	mounts   []v1alpha1.MountStatus // that may be in the sandbox; the cache may not have heard of our own last write of them
}

// report is what came of a chore.
type report struct {
	of      string // what it was made of: of anything else it says nothing
	mounts  []v1alpha1.MountStatus
	started string // the container that is fitted out
	inited  bool
	missed  bool // something did not work; look again soon
	notes   []note
	applied bool  // to the memory
	settled int64 // the generation of the sandbox for which all is as asked, 0 for none that was looked up
	// of a chore that detaches
	detached bool
}

// note is an event to be told.
type note struct{ reason, message string }

func (c *chores) of(sb *v1alpha1.Sandbox) *memory {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := client.ObjectKeyFromObject(sb)
	m := c.all[key]
	if m != nil && m.uid != sb.UID {
		m.end()
		m = nil
	}
	if m == nil {
		m = &memory{uid: sb.UID}
		c.all[key] = m
	}
	return m
}

// forget returns the UID of what it knew.
func (c *chores) forget(key types.NamespacedName) (uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.all[key]; m != nil {
		m.end()
		delete(c.all, key)
		uid = m.uid
	}
	return uid
}

// run starts a chore, unless one is under way. bounded ones wait for their turn.
func (c *chores) run(key types.NamespacedName, m *memory, bounded bool, f func(ctx context.Context) report) {
	c.mu.Lock() // until it is counted, so that Start waits for all that was started
	defer c.mu.Unlock()
	stop := c.stop
	m.mu.Lock()
	defer m.mu.Unlock()
	if stop == nil || stop.Err() != nil || m.running || m.report != nil {
		return
	}
	ctx, cancel := context.WithCancel(stop)
	m.running, m.bounded, m.cancel = true, bounded, cancel
	c.work.Go(func() {
		defer cancel()
		defer func() {
			select {
			case c.wake <- key:
			case <-stop.Done():
			}
		}()
		if bounded {
			select {
			case c.slot <- struct{}{}:
				defer func() { <-c.slot }()
			case <-ctx.Done():
				m.done(nil)
				return
			}
		}
		traced, end := begin(ctx, key, bounded)
		out := f(traced)
		end(out)
		if stop.Err() != nil { // nobody wants to know any more
			m.done(nil)
		} else {
			m.done(&out)
		}
	})
}

// Start lets chores run until ctx ends, and waits for them then.
func (c *chores) Start(ctx context.Context) error {
	c.mu.Lock()
	c.stop = ctx
	c.mu.Unlock()
	<-ctx.Done()
	c.mu.Lock()
	c.stop = nil
	c.mu.Unlock()
	c.work.Wait()
	return nil
}

func (m *memory) done(r *report) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running, m.cancel, m.report = false, nil, r
	if r != nil && !r.detached {
		m.mounts, m.settled = r.mounts, cmp.Or(r.settled, m.settled)
	}
}

func (m *memory) knows() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.recalled
}

func (m *memory) settledAt() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settled
}

// recall sets what may be in the sandbox, until a chore knows more.
func (m *memory) recall(mounts []v1alpha1.MountStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.recalled, m.mounts = true, mounts
}

// end gives up a chore that is under way.
func (m *memory) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cancel != nil {
		m.cancel()
	}
}

// bury keeps why a pod was ended: when it goes fast, nobody has seen it end before it is gone.
func (c *chores) bury(pod *corev1.Pod) {
	c.mu.Lock()
	m := c.all[client.ObjectKeyFromObject(pod)]
	c.mu.Unlock()
	if ref := metav1.GetControllerOf(pod); m == nil || ref == nil || ref.UID != m.uid {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pod, m.last = string(pod.UID), bereaved(disrupted(pod))
}

// lastWords is the verdict on a pod that is gone.
func (m *memory) lastWords(pod string) verdict {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pod == pod {
		return m.last
	}
	return bereaved("", "")
}

// giveUp ends a chore that was started when the sandbox was to go on, and says whether there was one.
func (m *memory) giveUp() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.running || !m.bounded {
		return false
	}
	m.cancel()
	return true
}

// peek is what came of a chore, nil when none is done. It stays until it was taken.
func (m *memory) peek() *report {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.report != nil {
		m.seen = true
	}
	return m.report
}

// taken forgets what peek has returned: it is in the status.
func (m *memory) taken() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen {
		m.seen, m.report = false, nil
	}
}
