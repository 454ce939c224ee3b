package node

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/mount/process"
)

const clientEnded = "the client that serves this volume has ended"

// watch notices the end of e's client. The goroutine ends with the client or with unwatch; Close waits
// for it. Node.mu is held.
func (n *Node) watch(e *entry, client *os.File) {
	e.process = client
	n.watchers.Go(func() {
		if process.Wait(context.Background(), client) {
			n.died(e)
		}
	})
}

// follow watches e's client when nobody could tell of it before.
func (n *Node) follow(e *entry) {
	lost := func() bool {
		return e.Client.PID != 0 && e.process == nil && e.dead == "" && e.quit != nil && !n.closed
	}
	n.mu.Lock()
	needed := lost()
	n.mu.Unlock()
	if !needed {
		return
	}
	client, err := n.open(n.ctx, e.Driver, e.Client)
	n.mu.Lock()
	defer n.mu.Unlock()
	if lost() {
		n.seen(e, client, err)
	} else {
		_ = client.Close()
	}
}

// unwatch is called with Node.mu held.
func (e *entry) unwatch() {
	if e.process != nil {
		_ = e.process.Close()
		e.process = nil
	}
	if e.quit != nil {
		close(e.quit)
		e.quit = nil
	}
}

// die is called with Node.mu held.
func (e *entry) die(why string) {
	if e.process != nil {
		_ = e.process.Close()
		e.process = nil
	}
	e.dead = why
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// lookTimeout bounds the look at a container after a client has ended.
const lookTimeout = 2 * time.Second

// died marks e's mount as dead and tells who wants to know. A client that ended because nobody has its mount any more did as it
// should.
func (n *Node) died(e *entry) {
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	if !n.there(ctx, e) {
		return
	}
	why := clientEnded
	if err := explain(ctx, n.config.Drivers[e.Driver], e.Client, nil); err != nil {
		why += ": " + err.Error()
	}
	n.mu.Lock()
	known := n.live[e.place()] == e && e.dead == "" && e.process != nil
	if known {
		n.pastOf(e.place()).died(n.config.Clock.Now(), why)
		e.die(why)
	}
	n.mu.Unlock()
	if !known {
		return
	}
	n.config.Logger.Warn("volume's client ended", "mount", e.Spec.ID, "driver", e.Driver, "target", e.Spec.Target, "pid", e.Client.PID, "why", why)
	if n.config.Died != nil {
		n.config.Died(e.view(VerdictDead, why))
	}
}

// crashed says whether e's client has ended while its mount is in the container.
func (n *Node) crashed(ctx context.Context, e *entry) bool {
	return e.Client.PID != 0 && !n.serves(ctx, e) && n.there(ctx, e)
}

// serves says whether e's client runs.
func (n *Node) serves(ctx context.Context, e *entry) bool {
	n.mu.Lock()
	if e.process != nil {
		defer n.mu.Unlock()
		return !process.Over(e.process)
	}
	n.mu.Unlock()
	return n.alive(ctx, e.Driver, e.Client)
}

// alive says whether a driver's client runs. One of which nobody can tell does: whether it answers, a read says.
func (n *Node) alive(ctx context.Context, driver string, p mount.Process) bool {
	f, err := n.open(ctx, driver, p)
	if err != nil {
		return errors.Is(err, context.DeadlineExceeded)
	}
	defer func() { _ = f.Close() }()
	return !process.Over(f)
}

// open returns a descriptor of a driver's client that becomes readable when it ends.
func (n *Node) open(ctx context.Context, driver string, p mount.Process) (*os.File, error) {
	if o, ok := n.config.Drivers[driver].(Opener); ok {
		return o.Open(ctx, p)
	}
	return process.Open(p)
}

// explain asks the driver why a client does not serve its volume; err when it does not know either.
func explain(ctx context.Context, d Driver, client mount.Process, err error) error {
	if x, ok := d.(Explainer); ok && client.PID != 0 {
		if reason := x.Explain(ctx, client); reason != nil {
			return reason
		}
	}
	return err
}
