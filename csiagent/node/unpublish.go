package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

// Identity names a published mount. An empty VolumeHandle is whatever is mounted at the target.
type Identity struct {
	VolumeHandle string
	Container    string
	Target       string
}

// Unpublish flushes the mount, takes it away from the sandbox and waits until its volume is written back, all within bounded time.
// A mount that is not there is no error. ErrDataLoss says that it is gone, but its last writes may be missing: end the sandbox's
// processes before it where that can be avoided, since files that they have open for writing keep the volume.
func (n *Node) Unpublish(ctx context.Context, id Identity) error {
	return n.unpublish(ctx, id, n.take)
}

func (n *Node) unpublish(ctx context.Context, id Identity, take func(context.Context, *entry) error) error {
	p := place{id.Container, id.Target}
	unlock, err := n.locks.Take(ctx, p)
	if err != nil {
		return fmt.Errorf("%w: another request works on this target", mount.ErrUnavailable)
	}
	defer unlock()
	e, err := n.known(ctx, p)
	if err != nil {
		return unreachable{err}
	}
	if e == nil || (id.VolumeHandle != "" && id.VolumeHandle != e.VolumeHandle) {
		return nil
	}
	if e.Driver == mount.DriverEphemeral {
		return n.leave(ctx, e, take)
	}
	return take(ctx, e)
}

// UnpublishAll unpublishes every mount, all at once.
func (n *Node) UnpublishAll(ctx context.Context) error {
	entries := n.entries()
	errs := make([]error, len(entries))
	var g errgroup.Group
	for i, e := range entries {
		g.Go(func() error {
			err := n.Unpublish(ctx, Identity{e.VolumeHandle, e.Spec.Container, e.Spec.Target})
			if err != nil {
				errs[i] = fmt.Errorf("mount %s: %w", e.Spec.ID, err)
			}
			return nil
		})
	}
	_ = g.Wait()
	return errors.Join(errs...)
}

// detachTimeout bounds a detach, which takes microseconds unless the kernel waits for somebody.
const detachTimeout = 5 * time.Second

// impatience is what a client gets that did not answer before.
const impatience = 200 * time.Millisecond

// courtesy is what a client gets that is kept by programs that only read, or stay in a directory: nothing can be lost.
const courtesy = 3 * time.Second

// take takes a mount away; its place is locked. Where its container cannot be reached it stays as it is, with its client: nothing could be
// written back. Config.Target says sooner or later that such a container has ended.
func (n *Node) take(ctx context.Context, e *entry) error {
	target, err := n.target(ctx, e)
	gone := errors.Is(err, attach.ErrGone)
	if err != nil && !gone {
		n.config.Logger.WarnContext(ctx, "container cannot be reached", "mount", e.Spec.ID, "error", err)
		return unreachable{err}
	}
	// The caller's leaving does not cut it short from here on: what is begun and not ended costs the last writes.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.config.FlushTimeout+detachTimeout)
	defer cancel()
	n.mu.Lock()
	e.unwatch()
	dead := e.Client.PID != 0 && e.dead != ""
	n.mu.Unlock()
	var lost, stays error // why its last writes may be missing, and why it is still there
	written := false
	if dead || n.crashed(ctx, e) {
		lost = errors.New(clientEnded)
	} else if !gone {
		lost = n.flush(ctx, target, e)
	}
	if !gone {
		written, stays = n.part(ctx, target, e, lost == nil)
	}
	if errors.Is(stays, attach.ErrGone) {
		stays = nil
	}
	drain := n.config.DrainTimeout
	switch {
	case lost != nil || stays != nil:
		drain = impatience
	case written:
		drain = min(drain, courtesy)
	}
	kept := n.drain(ctx, e, drain)
	switch {
	case stays != nil:
		// Its client may be what keeps it there; the mount stays in the journal for another try.
		n.config.Logger.WarnContext(ctx, "detach", "mount", e.Spec.ID, "error", stays)
		return fmt.Errorf("%w: the mount cannot be taken from the container", mount.ErrUnavailable)
	case kept != nil && written:
		n.config.Logger.InfoContext(ctx, "a client was ended that programs have kept, after everything was written back", "mount", e.Spec.ID, "driver", e.Driver, "target", e.Spec.Target)
	default:
		lost = errors.Join(lost, kept)
	}
	if err := n.journal.remove(e.place()); err != nil {
		return err
	}
	n.forget(e)
	return n.report(ctx, e, lost)
}

// report says what happened to the last writes.
func (n *Node) report(ctx context.Context, e *entry, lost error) error {
	if lost == nil || e.ReadOnly {
		n.config.Logger.InfoContext(ctx, "volume unmounted", "mount", e.Spec.ID, "driver", e.Driver, "target", e.Spec.Target)
		return nil
	}
	n.config.Logger.WarnContext(ctx, "volume unmounted, data may be missing", "mount", e.Spec.ID, "driver", e.Driver, "target", e.Spec.Target, "error", lost)
	return fmt.Errorf("%w: volume %s", ErrDataLoss, e.Spec.Volume)
}

// flush writes back what the kernel holds, in a process that can be killed. A container that is gone has nothing left to flush.
func (n *Node) flush(ctx context.Context, t Target, e *entry) error {
	if !e.Remote {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, n.config.FlushTimeout)
	defer cancel()
	dir, err := t.Open(ctx, e.Spec.Target, e.MountID)
	if errors.Is(err, attach.ErrGone) || errors.Is(err, attach.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	defer func() { _ = dir.Close() }()
	// syncfs of FUSE does not ask the client; a read does, and tells one that hangs from one that is busy with uploading.
	if err := n.config.Probe.Read(ctx, dir, e.FSType); errors.Is(err, probe.ErrHung) {
		return err
	}
	return n.config.Probe.Sync(ctx, dir)
}

// detach takes the mount away, lazily when somebody uses it.
func detach(ctx context.Context, t Target, e *entry) error {
	ctx, cancel := context.WithTimeout(ctx, detachTimeout)
	defer cancel()
	err := t.Detach(ctx, e.Spec.Target, e.MountID, false)
	if errors.Is(err, attach.ErrBusy) {
		err = t.Detach(ctx, e.Spec.Target, e.MountID, true)
	}
	return err
}

// part takes the mount away like detach. written says that nobody can lose anything by the end of its client, though somebody uses it
// still: no file is open for writing and none can be opened any more, wherever the tenant has the file system, and whoever closes one waits
// for the client to upload it. Only a healthy one is asked.
func (n *Node) part(ctx context.Context, t Target, e *entry, healthy bool) (written bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, detachTimeout)
	defer cancel()
	err = t.Detach(ctx, e.Spec.Target, e.MountID, false)
	if !errors.Is(err, attach.ErrBusy) {
		return false, err
	}
	if !healthy || !e.StoresOnClose || e.Client.PID == 0 { // without a client the file system may be others' as well
		return false, t.Detach(ctx, e.Spec.Target, e.MountID, true)
	}
	root, err := t.Open(ctx, e.Spec.Target, e.MountID)
	if err == nil {
		defer func() { _ = root.Close() }()
	}
	// An agent that dies in between leaves nothing read-only that is still mounted.
	if gone := t.Detach(ctx, e.Spec.Target, e.MountID, true); gone != nil || err != nil {
		return false, gone
	}
	err = n.config.Probe.Seal(ctx, root)
	n.config.Logger.DebugContext(ctx, "a volume in use is made read-only", "mount", e.Spec.ID, "error", err)
	return err == nil, nil
}

// drain waits for the volume's client to finish and end. It is not cut short by the caller's leaving: a client that is killed
// while it uploads loses data.
func (n *Node) drain(ctx context.Context, e *entry, d time.Duration) error {
	driver := n.config.Drivers[e.Driver]
	if driver == nil {
		return fmt.Errorf("no driver %q is installed here any more", e.Driver)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d)
	defer cancel()
	// Its staging directory went when it was attached: there is nothing left of it but the client.
	return driver.Unmount(ctx, filepath.Join(n.staging, e.place().key()), e.Client)
}
