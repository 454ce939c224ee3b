package node

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

// patiently runs work on a volume that has answered a moment ago: its server may vanish at any time, and then the kernel holds work as long
// as that is away. After a probe's time it is given up as mount.Wait does it, by the volume's handle. work has a copy of dir, which is closed
// after it.
func patiently[T any](ctx context.Context, n *Node, handle string, dir *os.File, work func(dir *os.File) (T, error), late func(T)) (T, error) {
	fd, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		var none T
		return none, err
	}
	own := os.NewFile(uintptr(fd), "volume")
	out, err := mount.Wait(ctx, &n.patience, handle, probe.DefaultTimeout, func() (T, error) {
		defer func() { _ = own.Close() }()
		return work(own)
	}, late)
	if errors.Is(err, mount.ErrNotBegun) {
		_ = own.Close()
	}
	if errors.Is(err, mount.ErrHeld) {
		err = fmt.Errorf("%w: %w", probe.ErrHung, err)
	}
	return out, err
}
