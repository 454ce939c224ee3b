package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// An ephemeral volume is one file system for all of its mounts. It lives as long as somebody has a mount of it: the containers, and this
// Node, which holds one more that is nowhere, so that a container may end and get it again. An agent that starts again takes its own from
// a container that has one. Only when the agent and all of the containers end together is the volume lost. A file beside the journal says
// that it is there, so that nobody gets an empty one for it without being told: from when its first mount is written down until its last one
// is about to be taken away. A later agent makes sure of it for each mount that lives.

// errLost is told before such a volume begins anew: once, or again by an agent that has started in between.
var errLost = fmt.Errorf("%w: its content is lost, since the agent and every container that had it have ended; it begins empty at the next try", mount.ErrUnavailable)

// volume is the lock of an ephemeral volume; no target is called so.
func volume(handle string) place { return place{target: "volume " + handle} }

// of says whether e is a mount of an ephemeral volume. What its handle is another driver's volume may have, too.
func (e *entry) of(handle string) bool {
	return e.Driver == mount.DriverEphemeral && e.VolumeHandle == handle
}

// share returns a tree of the ephemeral volume of m, which is made when this is its first mount. Its lock is held.
func (n *Node) share(ctx context.Context, done *steps, driver Driver, p place, r *record, m mount.Mount) (*attach.Tree, error) {
	r.FSType = "tmpfs"
	if tree, err := n.another(ctx, m); tree != nil || err != nil {
		if tree != nil {
			done.did(func(context.Context) error { _ = tree.Close(); return nil }) // closed twice when it was attached
		}
		return tree, err
	}
	if err := n.tell(m.VolumeHandle); err != nil {
		return nil, err
	}
	m.ReadOnly = false // this mount may be; the volume is another's to write to
	return n.stage(ctx, done, driver, p, r, m)
}

// another is one more mount of an ephemeral volume that is there, nil when nobody has one.
func (n *Node) another(ctx context.Context, m mount.Mount) (*attach.Tree, error) {
	if tree, err := n.ours(ctx, m); tree != nil || err != nil {
		return tree, err
	}
	for _, e := range n.entries() {
		if !e.of(m.VolumeHandle) {
			continue
		}
		t, err := n.target(ctx, e)
		if err == nil {
			var tree *attach.Tree
			if tree, err = t.Clone(ctx, e.Spec.Target, e.MountID, m.ReadOnly); err == nil {
				return tree, nil
			}
		}
		if !errors.Is(err, attach.ErrGone) && !errors.Is(err, attach.ErrNotFound) {
			n.config.Logger.WarnContext(ctx, "ephemeral volume cannot be taken from a container", "mount", e.Spec.ID, "error", err)
			return nil, fmt.Errorf("%w: a container that may have the volume cannot be reached", mount.ErrUnavailable)
		}
	}
	return nil, nil
}

// ours is one more mount of what this Node holds of an ephemeral volume, nil when that is nothing.
func (n *Node) ours(ctx context.Context, m mount.Mount) (*attach.Tree, error) {
	n.mu.Lock()
	held := n.held[m.VolumeHandle]
	delete(n.held, m.VolumeHandle) // nobody else is to use or close it meanwhile
	n.mu.Unlock()
	if held == nil {
		return nil, nil
	}
	tree, err := attach.Clone(held.Root(), attach.CloneOptions{ReadOnly: m.ReadOnly})
	if errors.Is(err, attach.ErrNoClone) {
		n.config.Logger.WarnContext(ctx, "ephemeral volume is not held any more", "mount", m.ID, "error", err)
		return nil, held.Close()
	}
	n.have(m.VolumeHandle, held)
	return tree, err
}

// have makes the tree what this Node holds of an ephemeral volume.
func (n *Node) have(handle string, tree *attach.Tree) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed { // it would be held for ever
		_ = tree.Close()
		return
	}
	if held := n.held[handle]; held != nil {
		_ = held.Close()
	}
	n.held[handle] = tree
}

// keepHeld is hold for an agent that has started again. Somebody who works on the volume holds it himself.
func (n *Node) keepHeld(ctx context.Context, t Target, e *entry) {
	n.mu.Lock()
	have := n.held[e.VolumeHandle]
	n.mu.Unlock()
	if have != nil {
		return
	}
	unlock, err := n.locks.Take(ctx, volume(e.VolumeHandle))
	if err != nil {
		return
	}
	defer unlock()
	if n.at(e.place()) == e {
		n.hold(ctx, t, e)
	}
}

// hold takes a mount of e's volume, which was just seen in t, for this Node, in the place of one that it may have. The volume's lock is held.
func (n *Node) hold(ctx context.Context, t Target, e *entry) {
	tree, err := t.Clone(ctx, e.Spec.Target, e.MountID, false)
	if err != nil {
		n.config.Logger.WarnContext(ctx, "ephemeral volume lives in its containers only", "mount", e.Spec.ID, "error", err)
		return
	}
	n.have(e.VolumeHandle, tree)
}

// leave takes away a mount of an ephemeral volume, and lets go of the volume with its last one.
func (n *Node) leave(ctx context.Context, e *entry, take func(context.Context, *entry) error) error {
	unlock, err := n.locks.Take(ctx, volume(e.VolumeHandle))
	if err != nil {
		return fmt.Errorf("%w: another request works on this volume", mount.ErrUnavailable)
	}
	defer unlock()
	for _, other := range n.entries() {
		if other.of(e.VolumeHandle) && other != e {
			return take(ctx, e)
		}
	}
	if err := n.discard(e.VolumeHandle); err != nil { // whatever an agent that ends from here on has left of it
		return err
	}
	err = take(ctx, e)
	if n.at(e.place()) == e {
		return errors.Join(err, n.remember(e.VolumeHandle))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if held := n.held[e.VolumeHandle]; held != nil {
		_ = held.Close()
		delete(n.held, e.VolumeHandle)
	}
	return err
}

// remember writes down that the volume is there.
func (n *Node) remember(handle string) error {
	if err := os.WriteFile(n.memory(handle), nil, 0o600); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	wrote("remembered")
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.told, handle)
	return nil
}

// discard forgets it.
func (n *Node) discard(handle string) error {
	if err := os.Remove(n.memory(handle)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("journal: %w", err)
	}
	wrote("discarded")
	return nil
}

// tell is errLost when the volume was there, and that has not been told yet. Nobody has it.
func (n *Node) tell(handle string) error {
	_, err := os.Stat(n.memory(handle))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("journal: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.told[handle] {
		return nil
	}
	n.told[handle] = true
	return errLost
}

func (n *Node) memory(handle string) string {
	sum := sha256.Sum256([]byte(handle))
	return filepath.Join(n.journal.dir, hex.EncodeToString(sum[:12])+".volume")
}
