package node

import (
	"context"
	"path/filepath"
)

// Abandon kills the clients of all mounts, also of those that an earlier process has made. It is for a sandbox whose processes do not
// end: a request that a client has taken and does not answer keeps its caller from dying, whatever signal that gets. The mounts stay
// until they are unpublished. ErrDataLoss is not told, since it is certain of a client that had something to upload.
func (n *Node) Abandon(ctx context.Context) error {
	records, err := n.journal.read()
	now, cancel := context.WithCancel(context.WithoutCancel(ctx))
	cancel()
	for _, r := range records {
		driver := n.config.Drivers[r.Driver]
		if driver == nil || r.Client.PID == 0 {
			continue
		}
		p := place{r.Spec.Container, r.Spec.Target}
		lost := driver.Unmount(now, filepath.Join(n.staging, p.key()), r.Client)
		n.config.Logger.WarnContext(ctx, "volume's client was killed, it keeps its sandbox from ending", "mount", r.Spec.ID, "driver", r.Driver,
			"target", r.Spec.Target, "pid", r.Client.PID, "error", lost)
	}
	return err
}
