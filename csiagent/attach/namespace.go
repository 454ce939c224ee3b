//go:build linux

package attach

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Namespace is the mount namespace of a running container. It keeps the namespace, and so every mount in it, alive until it is
// closed: close it as soon as the container is gone.
type Namespace struct {
	threads *Threads
	turn    chan struct{} // held from looking at a target until something is mounted there
	gone    chan struct{}
	id      uint64

	mu sync.Mutex
	f  *os.File // nil after Close
}

// NewNamespace takes over f, a descriptor of a mount namespace that is not this process's own. Whether its giver may be
// believed is the caller's business. Work in the namespace is done by threads.
func NewNamespace(f *os.File, threads *Threads) (*Namespace, error) {
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNS {
		return nil, fmt.Errorf("%w: the descriptor is no mount namespace", ErrUnsafe)
	}
	id, err := identify(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("identify mount namespace: %w", err)
	}
	return &Namespace{threads: threads, turn: make(chan struct{}, 1), gone: make(chan struct{}), id: id, f: f}, nil
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

// enter runs work in the namespace. With alone, no other work of that kind runs in it meanwhile. undo and after may be nil;
// after runs in any case, and before enter returns when no thread was started.
func (n *Namespace) enter(ctx context.Context, alone bool, work func() error, undo, after func()) error {
	j := job{work: work, undo: undo, after: after}
	give, err := n.admit(ctx, alone, &j)
	if err != nil {
		give()
		if after != nil {
			after()
		}
		return err
	}
	return n.threads.do(ctx, n.gone, j)
}

// admit waits for what j needs before it may start: its turn, a thread's slot, and a descriptor of its own. give returns what
// was taken of it.
func (n *Namespace) admit(ctx context.Context, alone bool, j *job) (give func(), err error) {
	give = func() {}
	if alone {
		if err := n.take(ctx, n.turn); err != nil {
			return give, err
		}
		j.turn, give = n.turn, func() { <-n.turn }
	}
	if err := n.take(ctx, n.threads.slots); err != nil {
		return give, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.f == nil {
		err = ErrGone
	} else {
		j.ns, err = unix.FcntlInt(n.f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	}
	if err != nil {
		<-n.threads.slots
	}
	return give, err
}

func (n *Namespace) take(ctx context.Context, slot chan struct{}) error {
	select {
	case <-n.gone:
		return ErrGone
	case <-ctx.Done():
		return ctx.Err()
	default:
	}
	select {
	case slot <- struct{}{}:
		return nil
	case <-n.gone:
		return ErrGone
	case <-ctx.Done():
		return fmt.Errorf("wait for a thread, %d of %d are stuck: %w", n.threads.Stuck(), cap(n.threads.slots), ctx.Err())
	}
}

// relative is target seen from "/".
func relative(target string) (string, error) {
	rel, ok := strings.CutPrefix(target, "/")
	if !ok || rel == "" {
		return "", fmt.Errorf("%w: target %q must be absolute and not the root", ErrUnsafe, target)
	}
	return rel, nil
}
