package node

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

// patiently runs work on a volume that has answered a moment ago: its server may vanish at any time, and then the kernel holds work as long
// as that is away. After a probe's time, or when ctx ends, its thread is left to the kernel, and late gets what comes of it after all; until
// then nobody begins anything of the kind with the same volume. work has a copy of dir, which is closed after it.
func patiently[T any](ctx context.Context, n *Node, handle string, dir *os.File, work func(dir *os.File) (T, error), late func(T)) (T, error) {
	var none, out T
	n.mu.Lock()
	stuck := n.hanging[handle] > 0
	n.mu.Unlock()
	if stuck {
		return none, fmt.Errorf("%w: an earlier call has not returned", probe.ErrHung)
	}
	fd, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithTimeout(ctx, probe.DefaultTimeout)
	defer cancel()
	done := make(chan struct{}) // its goroutine ends when the kernel lets it
	go func() {
		own := os.NewFile(uintptr(fd), "volume")
		out, err = work(own)
		_ = own.Close()
		close(done)
	}()
	select {
	case <-done:
		return out, err
	case <-ctx.Done():
	}
	n.hang(handle, 1)
	go func() {
		<-done
		if err == nil {
			late(out)
		}
		n.hang(handle, -1)
	}()
	return none, fmt.Errorf("%w: no answer in time", probe.ErrHung)
}

func (n *Node) hang(handle string, by int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hanging[handle] += by; n.hanging[handle] == 0 {
		delete(n.hanging, handle)
	}
}
