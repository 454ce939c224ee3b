package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

// Publish mounts m's volume into the sandbox. When it returns nil the volume was read and is at its target; when it fails,
// nothing is left. The same mount again is no error and does nothing while it works, but that new credentials take the place of earlier
// ones; one that died is replaced.
func (n *Node) Publish(ctx context.Context, m mount.Mount) error { return n.publishIf(ctx, m, always) }

// Refresh is Publish of a mount that is there already and that a client serves: it gets the credentials of m, and another client where its
// own has ended. With any other it does nothing, so that it brings nothing back that somebody takes away at the same time.
func (n *Node) Refresh(ctx context.Context, m mount.Mount) error { return n.publishIf(ctx, m, served) }

func always(*entry) bool { return true }

func served(e *entry) bool { return e != nil && e.Client.PID != 0 }

// publishIf publishes m where what is at its place, nil for nothing, is as wanted.
func (n *Node) publishIf(ctx context.Context, m mount.Mount, wanted func(*entry) bool) error {
	ctx, cancel := context.WithTimeout(ctx, n.config.PublishTimeout)
	defer cancel()
	var err error
	if m.Spec, err = mount.Parse(m.Spec); err != nil {
		return err
	}
	p := place{m.Container, m.Target}
	unlock, err := n.locks.Take(ctx, p)
	if err != nil {
		return fmt.Errorf("%w: another request works on this target", mount.ErrUnavailable)
	}
	defer unlock()
	if !wanted(n.at(p)) {
		return nil
	}
	if m.Driver == mount.DriverEphemeral {
		unlock, err := n.locks.Take(ctx, volume(m.VolumeHandle))
		if err != nil {
			return fmt.Errorf("%w: another request works on this volume", mount.ErrUnavailable)
		}
		defer unlock()
	}
	r, err := newRecord(m)
	if err != nil {
		return err
	}
	done, old, err := n.again(ctx, p, r, m)
	if done || err != nil {
		return err
	}
	if old == nil {
		err = n.admit(m)
	}
	if err != nil {
		return err
	}
	return n.publish(ctx, p, r, m, old)
}

// within is a context for work that nobody waits for.
func (n *Node) within() (context.Context, context.CancelFunc) {
	return context.WithTimeout(n.ctx, n.config.PublishTimeout)
}

// again says whether r is published already. A mount of the same whose client died or hangs is old, to be replaced; any other that does
// not work is taken away.
func (n *Node) again(ctx context.Context, p place, r record, m mount.Mount) (done bool, old *entry, err error) {
	e, err := n.known(ctx, p)
	switch {
	case err != nil:
		return false, nil, unreachable{err}
	case e == nil:
		return false, nil, nil
	case e.Fingerprint != r.Fingerprint || e.VolumeHandle != r.VolumeHandle:
		return false, nil, fmt.Errorf("%w: another volume is mounted at this target, or the same one in another way; unmount it first", ErrConflict)
	case n.works(ctx, e):
		n.mu.Lock()
		e.asked = m // a client that dies is replaced by one with the credentials of now
		n.mu.Unlock()
		return true, nil, n.renew(ctx, e, m)
	case e.Client.PID != 0 && n.there(ctx, e):
		n.mu.Lock()
		_, why := n.pastOf(p).rest(n.config.Clock.Now())
		n.mu.Unlock()
		if why != "" {
			return false, nil, fmt.Errorf("%w: %s", mount.ErrUnavailable, why)
		}
		return false, e, nil
	}
	err = n.take(context.WithoutCancel(ctx), e)
	if errors.Is(err, ErrDataLoss) {
		n.config.Logger.WarnContext(ctx, "replaced a dead mount", "mount", e.Spec.ID, "error", err)
		err = nil
	}
	return false, nil, err
}

// known is the mount at p, nil when there is none; p is locked.
func (n *Node) known(ctx context.Context, p place) (*entry, error) {
	e := n.at(p)
	if e == nil || e.next == nil {
		return e, nil
	}
	e, err := n.finish(ctx, e)
	if err != nil {
		return e, err
	}
	if err := n.resume(ctx, e); err != nil {
		n.config.Logger.WarnContext(ctx, "the client of a replacement that was cut short cannot be taken over", "mount", e.Spec.ID, "error", err)
		e.dead = interrupted
	}
	n.add(e)
	return e, nil
}

// renew hands credentials on to a client that lives.
func (n *Node) renew(ctx context.Context, e *entry, m mount.Mount) error {
	if d, ok := n.config.Drivers[e.Driver].(Renewer); ok && e.Client.PID != 0 {
		return d.Renew(ctx, e.Client, m)
	}
	return nil
}

// works is the quick look of a repeated publish: mounted, and its client alive. Whether it answers, Mounts says.
func (n *Node) works(ctx context.Context, e *entry) bool {
	if n.broken(e) || (e.Client.PID != 0 && !n.serves(ctx, e)) {
		return false
	}
	t, err := n.target(ctx, e)
	if err != nil {
		return false
	}
	there, err := t.Live(ctx, e.Spec.Target, e.MountID)
	return err == nil && there && !n.unserved(ctx, t, e)
}

// unserved says whether a file system has lost the server process that nobody has named, which the kernel says at once. What else is wrong
// with it may pass.
func (n *Node) unserved(ctx context.Context, t Target, e *entry) bool {
	if !e.Remote || e.Client.PID != 0 {
		return false
	}
	dir, err := t.Open(ctx, e.Spec.Target, e.MountID)
	if err == nil {
		err = n.config.Probe.Read(ctx, dir, e.FSType)
		_ = dir.Close()
	}
	return errors.Is(err, unix.ENOTCONN)
}

// admit applies the policy to m beside the mounts that live.
func (n *Node) admit(m mount.Mount) error {
	var all []mount.Mount
	for _, e := range n.entries() {
		all = append(all, mount.Mount{Spec: e.Spec, Driver: e.Driver})
	}
	err := n.config.Policy.Admit(append(all, m))
	var faults, mine mount.Faults
	if !errors.As(err, &faults) {
		return err
	}
	for _, f := range faults {
		if f.Index == len(all) {
			mine = append(mine, f)
		}
	}
	return mine.At(0).Err()
}

// steps are what is to be undone, the last first.
type steps []func(context.Context) error

func (s *steps) did(undo func(context.Context) error) { *s = append(*s, undo) }

// undoGrace is how long undoing a publish may take, after its caller may be gone.
const undoGrace = 15 * time.Second

// publish mounts m, in the place of old unless that is nil. When it fails old is as it was.
func (n *Node) publish(ctx context.Context, p place, r record, m mount.Mount, old *entry) (err error) {
	driver := n.config.Drivers[m.Driver]
	if driver == nil {
		return fmt.Errorf("%w: no driver %q is installed here", mount.ErrInvalid, m.Driver)
	}
	target, err := n.config.Target(ctx, m.Container)
	if err != nil {
		n.config.Logger.WarnContext(ctx, "container cannot be reached", "mount", m.ID, "container", m.Container, "error", err)
		return unreachable{err}
	}
	bring := n.stage
	if m.Driver == mount.DriverEphemeral {
		bring = n.share
	}
	var done steps
	defer func() {
		if err != nil {
			n.undo(ctx, m, done)
			err = translate(err)
		}
	}()
	tree, err := bring(ctx, &done, driver, p, &r, m)
	if err != nil {
		return err
	}
	// From here on nothing of the volume is in this process's mount table: it lives as long as tree, then as the sandbox's mount.
	r.Namespace, r.MountID, r.MountedAt = target.ID(), tree.ID(), n.config.Clock.Now().UTC()
	done.did(func(context.Context) error { return n.journal.revoke(p, old) })
	if err := n.journal.begin(p, r); err != nil {
		return err
	}
	if err := put(ctx, target, tree, m, old); err != nil {
		return err
	}
	done.did(func(ctx context.Context) error { return target.Detach(ctx, m.Target, r.MountID, true) })
	_ = tree.Close() // else the mount counts as in use
	return n.settle(ctx, target, p, r, m, old)
}

// put attaches the tree, in the place of old unless that is nil.
func put(ctx context.Context, target Target, tree *attach.Tree, m mount.Mount, old *entry) (err error) {
	o := attach.AttachOptions{AllowNonEmpty: m.AllowNonEmpty}
	if old != nil {
		_, err = target.Replace(ctx, tree, m.Target, old.MountID, o)
	} else {
		_, err = target.Attach(ctx, tree, m.Target, o)
	}
	return err
}

// settle makes a mount known that Attach or Replace has just seen in its place.
func (n *Node) settle(ctx context.Context, target Target, p place, r record, m mount.Mount, old *entry) error {
	if r.Client.PID != 0 && !n.alive(ctx, r.Driver, r.Client) {
		return fmt.Errorf("%w: %s", mount.ErrUnavailable, clientEnded)
	}
	if err := n.journal.commit(p); err != nil {
		return err
	}
	e := &entry{record: r, asked: m}
	if r.Driver == mount.DriverEphemeral {
		if err := n.remember(r.VolumeHandle); err != nil {
			return err
		}
		n.hold(ctx, target, e)
	}
	n.add(e)
	if old != nil {
		n.bygone(ctx, old)
	}
	n.config.Logger.InfoContext(ctx, "volume mounted", "mount", r.Spec.ID, "driver", r.Driver, "target", r.Spec.Target)
	return nil
}

// bygone ends the client of a mount that another one has replaced. Whoever waits for an answer of it gets an error.
func (n *Node) bygone(ctx context.Context, old *entry) {
	now := n.config.Clock.Now()
	n.mu.Lock()
	past := n.pastOf(old.place())
	past.heals, past.healed = past.heals+1, now
	if old.dead == "" {
		past.died(now, "it did not answer, and was killed")
	}
	n.mu.Unlock()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	cancel()
	lost := n.config.Drivers[old.Driver].Unmount(ctx, filepath.Join(n.staging, old.place().key()), old.Client)
	n.config.Logger.WarnContext(ctx, "what a client that was replaced had not uploaded is lost", "mount", old.Spec.ID, "driver", old.Driver, "error", lost)
}

// stage brings up the volume, reads it, and returns a tree of it that is mounted nowhere.
func (n *Node) stage(ctx context.Context, done *steps, driver Driver, p place, r *record, m mount.Mount) (*attach.Tree, error) {
	dir := filepath.Join(n.staging, p.key()+"-"+strconv.FormatUint(rand.Uint64(), 36))
	if _, ok := driver.(Sweeper); ok {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, fmt.Errorf("staging: %w", err)
		}
	}
	done.did(func(context.Context) error { return unstage(dir) })
	src, err := driver.Mount(ctx, m, dir)
	if err != nil {
		return nil, err
	}
	done.did(func(ctx context.Context) error { // nobody has written anything: there is nothing to wait for
		ctx, cancel := context.WithTimeout(ctx, impatience)
		defer cancel()
		return driver.Unmount(ctx, dir, src.Client)
	})
	defer func() { _ = src.Root.Close() }()
	r.FSType, r.Remote, r.Client, r.StoresOnClose = src.FSType, src.Remote, src.Client, src.StoresOnClose
	if err := n.answers(ctx, src); err != nil {
		return nil, explain(ctx, driver, src.Client, err)
	}
	o := attach.CloneOptions{SubPath: src.SubPath, MakeSubPath: !r.ReadOnly, Owner: m.Owner, ReadOnly: r.ReadOnly}
	tree, err := n.clone(ctx, m.VolumeHandle, src, o)
	if err != nil {
		return nil, err
	}
	done.did(func(context.Context) error { _ = tree.Close(); return nil }) // closed twice when it was attached
	return tree, unstage(dir)
}

// clone is attach.Clone, which asks the volume for the directories of a sub path.
func (n *Node) clone(ctx context.Context, handle string, src mount.Source, o attach.CloneOptions) (*attach.Tree, error) {
	if !src.Remote || o.SubPath == "" {
		return attach.Clone(src.Root, o)
	}
	return patiently(ctx, n, handle, src.Root, func(root *os.File) (*attach.Tree, error) {
		return attach.Clone(root, o)
	}, func(t *attach.Tree) { _ = t.Close() })
}

// answers is what makes a volume count as mounted.
func (n *Node) answers(ctx context.Context, src mount.Source) error {
	if src.Remote {
		return n.config.Probe.Read(ctx, src.Root, src.FSType)
	}
	return probe.Direct(src.Root, src.FSType)
}

// unstage takes what is mounted on dir out of this process's mount table, and removes dir.
func unstage(dir string) error {
	for {
		switch err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); {
		case err == nil:
			continue
		case errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM): // not mounted, or we may not mount at all
			return fmt.Errorf("staging: %w", err)
		}
		switch err := unix.Rmdir(dir); {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.EBUSY): // a client has mounted in between
			return fmt.Errorf("staging: %w", err)
		}
	}
}

// undo reverses what was done, on a context that outlives the caller's. What fails is an operator's matter, not the caller's.
func (n *Node) undo(ctx context.Context, m mount.Mount, done steps) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(undoGrace, n.config.DrainTimeout))
	defer cancel()
	for i := len(done) - 1; i >= 0; i-- {
		if err := done[i](ctx); err != nil {
			n.config.Logger.WarnContext(ctx, "undo of a failed publish", "mount", m.ID, "driver", m.Driver, "error", err)
		}
	}
}
