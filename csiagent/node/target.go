package node

import (
	"context"
	"os"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
)

// Target is a container's view of the file system, in which mounts are made. attach.Namespace is one.
type Target interface {
	// ID tells the view from that of a container that was started anew, in which no earlier mount is.
	ID() uint64
	Attach(ctx context.Context, t *attach.Tree, target string, o attach.AttachOptions) (mountID uint64, err error)
	Replace(ctx context.Context, t *attach.Tree, target string, old uint64, o attach.AttachOptions) (mountID uint64, err error)
	Detach(ctx context.Context, target string, mountID uint64, lazy bool) error
	Live(ctx context.Context, target string, mountID uint64) (bool, error)
	Open(ctx context.Context, target string, mountID uint64) (*os.File, error)
	// Clone is another mount of what is at target, that is nowhere yet.
	Clone(ctx context.Context, target string, mountID uint64, readOnly bool) (*attach.Tree, error)
}

var _ Target = (*attach.Namespace)(nil)

// target is the container in which e was mounted; attach.ErrGone when it was started again since.
func (n *Node) target(ctx context.Context, e *entry) (Target, error) {
	t, err := n.config.Target(ctx, e.Spec.Container)
	if err == nil && e.Namespace != 0 && e.Namespace != t.ID() {
		return nil, attach.ErrGone
	}
	return t, err
}

// Probe reads, flushes and seals file systems that may hang. probe.Prober is one.
type Probe interface {
	Read(ctx context.Context, dir *os.File, fstype string) error
	Sync(ctx context.Context, dir *os.File) error
	Seal(ctx context.Context, dir *os.File) error
}
