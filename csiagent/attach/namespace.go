//go:build linux

package attach

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Namespace is the mount namespace of a running container. It keeps the namespace, and so every mount in it, alive until it is
// closed: close it as soon as the container is gone.
type Namespace struct {
	threads *Threads
	own     chan struct{} // has room for the threads that may be here at once
	gone    chan struct{}
	id      uint64

	mu     sync.Mutex
	f      *os.File // nil after Close
	inside bool     // a thread does what needs to be alone, and then what is in queue
	queue  []*job
}

// NewNamespace takes over f, a descriptor of a mount namespace that is not this process's own. Whether its giver may be
// believed is the caller's business. Work in the namespace is done by threads.
func NewNamespace(f *os.File, threads *Threads) (*Namespace, error) {
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNS {
		return nil, fmt.Errorf("%w: the descriptor is no mount namespace", ErrUnsafe)
	}
	if _, err := procs(); err != nil {
		return nil, err
	}
	id, err := identify(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("identify mount namespace: %w", err)
	}
	return &Namespace{threads: threads, own: make(chan struct{}, perNamespace), gone: make(chan struct{}), id: id, f: f}, nil
}

// identify returns the number that the kernel gives to the namespace and to no other before the next boot. Kernels before 6.11 do not
// tell it; then it is the inode, which another namespace may get once this one has ended.
func identify(fd int) (uint64, error) {
	var id uint64
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), getMountNamespaceID, uintptr(unsafe.Pointer(&id))); errno == 0 {
		return id, nil
	}
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return st.Ino, err
}

// getMountNamespaceID is NS_GET_MNTNS_ID, which golang.org/x/sys does not have.
const getMountNamespaceID = 0x8008b705

// ID tells the namespace from others, also to a later process: a container that was started again has another one.
func (n *Namespace) ID() uint64 { return n.id }

// Close lets go of the namespace. Calls that wait return ErrGone. It is idempotent.
func (n *Namespace) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.f == nil {
		return nil
	}
	close(n.gone)
	err := n.f.Close()
	n.f = nil
	return err
}

// Gone is closed when the namespace is.
func (n *Namespace) Gone() <-chan struct{} { return n.gone }

// enter runs work in the namespace, on a thread that is thrown away. With alone, no other work of that kind runs in it meanwhile: what
// comes while one does is done by the same thread. undo and after may be nil; after runs in any case.
func (n *Namespace) enter(ctx context.Context, alone bool, work func() error, undo, after func()) error {
	j := &job{work: work, undo: undo, after: after, left: make(chan struct{}), done: make(chan error, 1)}
	err := ctx.Err()
	if err == nil {
		err = n.begin(j, alone)
	}
	if err != nil {
		if after != nil {
			after()
		}
		return err
	}
	return j.wait(ctx, n.threads, n.gone)
}

// begin gives j to a thread.
func (n *Namespace) begin(j *job, alone bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.f == nil {
		return ErrGone
	}
	if alone && n.inside {
		n.queue = append(slices.DeleteFunc(n.queue, (*job).isWithdrawn), j)
		return nil
	}
	ns, err := unix.FcntlInt(n.f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	left := j.left
	next := func() *job { once := j; j = nil; return once }
	if alone { // others may join its queue
		n.inside, n.queue, next, left = true, append(n.queue, j), n.next, nil
	}
	n.threads.do(ns, n.own, n.gone, left, next)
	return nil
}

// next is for the thread that is inside.
func (n *Namespace) next() *job {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.queue) == 0 {
		n.inside = false
		return nil
	}
	j := n.queue[0]
	n.queue = n.queue[1:]
	return j
}

// relative is target seen from "/".
func relative(target string) (string, error) {
	rel, ok := strings.CutPrefix(target, "/")
	if !ok || rel == "" {
		return "", fmt.Errorf("%w: target %q must be absolute and not the root", ErrUnsafe, target)
	}
	return rel, nil
}
