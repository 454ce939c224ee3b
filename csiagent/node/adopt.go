package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

const interrupted = "the agent ended while this volume was being mounted"

// Adopt takes over what an earlier process has published and left behind: mounts that live are kept, those that are gone are
// forgotten with their clients, and half-done publishes are cleaned up. It is called before anything else. An error names what
// could not be taken over; the rest is.
func (n *Node) Adopt(ctx context.Context) error {
	errs := []error{n.sweep(ctx)}
	pages, unread := n.journal.read()
	errs = append(errs, unread)
	adopted := make(chan error, len(pages))
	var g errgroup.Group // one whose client or container keeps us waiting is not to keep the others
	g.SetLimit(probesAtOnce)
	for _, page := range pages {
		g.Go(func() error {
			err := n.adopt(ctx, page)
			if err != nil {
				err = fmt.Errorf("adopt mount %s: %w", page.id(), err)
			}
			adopted <- err
			return nil
		})
	}
	_ = g.Wait()
	close(adopted)
	for err := range adopted {
		errs = append(errs, err)
	}
	if unread == nil { // else what no record names may live
		errs = append(errs, n.keep(ctx))
	}
	return errors.Join(errs...)
}

// keep tells drivers which mounts live.
func (n *Node) keep(ctx context.Context) error {
	var errs []error
	for name, driver := range n.config.Drivers {
		k, ok := driver.(Keeper)
		if !ok {
			continue
		}
		var dirs []string
		for _, e := range n.entries() {
			if e.Driver == name {
				dirs = append(dirs, filepath.Join(n.staging, e.place().key()))
			}
		}
		errs = append(errs, k.Keep(ctx, dirs))
	}
	return errors.Join(errs...)
}

// sweep removes staging directories, all of which belong to publishes that were cut short, and ends their clients. One that begins
// only now does not find its directory.
func (n *Node) sweep(ctx context.Context) error {
	dirs, err := os.ReadDir(n.staging)
	if err != nil {
		return fmt.Errorf("staging: %w", err)
	}
	errs := make([]error, len(dirs))
	var g errgroup.Group
	g.SetLimit(probesAtOnce)
	for i, d := range dirs {
		g.Go(func() error {
			dir := filepath.Join(n.staging, d.Name())
			// Again afterwards: one may have begun in between. Before, since a directory that is gone is not looked for any more.
			errs[i] = errors.Join(n.end(ctx, dir), unstage(dir), n.end(ctx, dir))
			return nil
		})
	}
	_ = g.Wait()
	return errors.Join(errs...)
}

// end ends the clients that no record names.
func (n *Node) end(ctx context.Context, dir string) error {
	var errs []error
	for _, driver := range n.config.Drivers {
		if s, ok := driver.(Sweeper); ok {
			errs = append(errs, s.Sweep(ctx, dir))
		}
	}
	return errors.Join(errs...)
}

func (n *Node) adopt(ctx context.Context, p page) error {
	if p.is == nil {
		return n.bury(ctx, &entry{record: *p.next})
	}
	e, err := n.finish(ctx, &entry{record: *p.is, next: p.next})
	if err != nil {
		n.config.Logger.WarnContext(ctx, "a replacement that was cut short cannot be finished yet", "mount", e.Spec.ID, "error", err)
		e.dead = interrupted
		n.add(e)
		return nil
	}
	switch {
	case !n.there(ctx, e):
		return errors.Join(n.drain(ctx, e, n.config.DrainTimeout), n.journal.remove(e.place()))
	case e.Client.PID != 0 && !n.alive(ctx, e.Driver, e.Client):
		e.dead = clientEnded
		n.mu.Lock()
		n.pastOf(e.place()).died(n.config.Clock.Now(), clientEnded) // nobody was there to see it, or to hear its last words
		n.mu.Unlock()
	}
	n.add(e)
	if e.Driver == mount.DriverEphemeral {
		if err := n.remember(e.VolumeHandle); err != nil {
			return err
		}
	}
	return n.resume(ctx, e)
}

// resume has e's driver go on with what it does for a client of an earlier process.
func (n *Node) resume(ctx context.Context, e *entry) error {
	n.mu.Lock()
	dead := e.dead != ""
	n.mu.Unlock()
	if d, ok := n.config.Drivers[e.Driver].(Adopter); ok && e.Client.PID != 0 && !dead {
		return d.Adopt(ctx, e.Client)
	}
	return nil
}

// finish is what a replacement that was cut short has come to: the new mount, when it had got into the container, or the old one. Any
// other e it returns as it is, and so with an error.
func (n *Node) finish(ctx context.Context, e *entry) (*entry, error) {
	if e.next == nil {
		return e, nil
	}
	old, fresh, there := &entry{record: e.record, asked: e.asked}, &entry{record: *e.next, asked: e.asked}, false
	t, err := n.target(ctx, fresh)
	if err == nil {
		there, err = t.Live(ctx, fresh.Spec.Target, fresh.MountID)
	}
	if err != nil && !errors.Is(err, attach.ErrGone) {
		return e, err
	}
	is, away, write := old, fresh, n.journal.cancel
	if there {
		if err := detach(ctx, t, old); err != nil { // it may lie over the new one
			return e, err
		}
		is, away, write = fresh, old, n.journal.commit
	}
	if err := n.drain(ctx, away, impatience); err != nil {
		n.config.Logger.InfoContext(ctx, "ended a client of a replacement that was cut short", "mount", e.Spec.ID, "error", err)
	}
	return is, write(e.place())
}

// there says whether the mount still is in its container. A container that cannot be reached yet keeps its mounts.
func (n *Node) there(ctx context.Context, e *entry) bool {
	t, err := n.target(ctx, e)
	if err == nil {
		var there bool
		if there, err = t.Live(ctx, e.Spec.Target, e.MountID); err == nil {
			return there
		}
	}
	if errors.Is(err, attach.ErrGone) {
		return false
	}
	n.config.Logger.WarnContext(ctx, "mount cannot be seen, taken to be there", "mount", e.Spec.ID, "error", err)
	return true
}

// bury undoes a publish that was cut short between its last steps. Where its container cannot be reached it is reported as failed,
// until it can be replaced.
func (n *Node) bury(ctx context.Context, e *entry) error {
	if err := n.drain(ctx, e, impatience); err != nil {
		n.config.Logger.InfoContext(ctx, "ended the client of a publish that was cut short", "mount", e.Spec.ID, "error", err)
	}
	e.Client.PID, e.dead = 0, interrupted
	t, err := n.target(ctx, e)
	if err == nil {
		err = detach(ctx, t, e)
	}
	if err == nil || errors.Is(err, attach.ErrGone) {
		return n.journal.remove(e.place())
	}
	n.config.Logger.WarnContext(ctx, "a publish that was cut short cannot be undone yet", "mount", e.Spec.ID, "error", err)
	n.add(e)
	return nil
}
