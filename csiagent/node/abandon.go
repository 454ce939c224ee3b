package node

import (
	"context"
	"path/filepath"
)

// Abandon kills the clients of all mounts, also of those that an earlier process has made. It is for a sandbox whose processes do not
// end: a request that a client has taken and does not answer keeps its caller from dying, whatever signal that gets. The mounts stay
// until they are unpublished. ErrDataLoss is not told, since it is certain of a client that had something to upload.
func (n *Node) Abandon(ctx context.Context) error {
	pages, err := n.journal.read()
	now, cancel := context.WithCancel(context.WithoutCancel(ctx))
	cancel()
	for p, page := range pages {
		for _, r := range []*record{page.is, page.next} {
			if r == nil || n.config.Drivers[r.Driver] == nil || r.Client.PID == 0 {
				continue
			}
			lost := n.config.Drivers[r.Driver].Unmount(now, filepath.Join(n.staging, p.key()), r.Client)
			n.config.Logger.WarnContext(ctx, "volume's client was killed, it keeps its sandbox from ending", "mount", r.Spec.ID, "driver", r.Driver,
				"target", r.Spec.Target, "pid", r.Client.PID, "error", lost)
		}
	}
	return err
}
