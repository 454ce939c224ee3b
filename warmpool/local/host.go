package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"k8s.io/utils/clock"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/local/container"
	"github.com/sandgate-dev/sandgate/warmpool/local/netns"
	"github.com/sandgate-dev/sandgate/warmpool/local/process"
	"github.com/sandgate-dev/sandgate/warmpool/local/rootfs"
)

// Where things are inside a sandbox.
const (
	insidePrograms = "/.sandgate/bin"
	insideHandover = "/.sandgate/run"
	handoverSocket = "handover.sock"
	envdPort       = 49983
)

// undoTimeout bounds the removal of a sandbox that could not be made.
const undoTimeout = 20 * time.Second

// host makes sandboxes out of this machine's containers.
type host struct {
	layout     layout
	log        *slog.Logger
	containers *container.Runtime
	skeleton   *rootfs.Skeleton
	etc        string // what every /etc begins as
	programs   string
	signer     *initialize.Signer
	drivers    map[string]node.Driver
	policy     mount.Policy
	probe      node.Probe
	clock      clock.Clock
	threads    *attach.Threads
	fence      netns.Fence
}

var _ machine = (*host)(nil)

// Make implements machine.
func (h *host) Make(ctx context.Context, id warmpool.ID, p plan) (_ box, err error) {
	c := newCell(h, id)
	defer func() {
		if err == nil {
			return
		}
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		if end := c.End(after); end != nil {
			h.log.Error("sandbox that could not be made leaves something behind", "sandbox", id, "error", end)
		}
	}()
	if err := h.prepare(id, p); err != nil {
		return nil, err
	}
	if err := c.listen(); err != nil {
		return nil, err
	}
	out, err := container.NewOutput()
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	pid, err := h.containers.Run(ctx, h.layout.part(id, "bundle"), h.spec(id, p), out)
	if err != nil {
		return nil, err
	}
	started, err := process.Identify(pid)
	if err != nil {
		return nil, fmt.Errorf("the sandbox ended at once: %w: %s", err, out.Tail())
	}
	if err := c.enter(started); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out.Tail())
	}
	if p.network == NetworkPasta {
		if c.uplink, err = c.net.Connect(ctx, h.layout.part(id, "bundle"), &h.fence); err != nil {
			return nil, err
		}
	}
	if err := c.await(ctx); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out.Tail())
	}
	if p.patient {
		h.containers.Hurry(string(id))
	}
	return c, nil
}

// prepare makes the directories of a sandbox and its root file system.
func (h *host) prepare(id warmpool.ID, p plan) error {
	for _, dir := range []string{h.layout.sandbox(id), h.layout.part(id, "bundle")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("sandbox %s: %w", id, err)
		}
	}
	for _, dir := range []string{"root", "run", "upper", "upper/usr", "upper/etc", "work", "work/usr", "work/etc"} {
		if err := os.Mkdir(h.layout.part(id, dir), 0o755); err != nil { //nolint:gosec // seen from inside; the parent is private
			return fmt.Errorf("sandbox %s: %w", id, err)
		}
	}
	if err := h.Save(record{ID: id, Template: p.name, Revision: p.revision, State: warmpool.Creating}); err != nil {
		return err
	}
	if err := rootfs.WriteUsr("/", h.layout.part(id, "upper/usr")); err != nil {
		return err
	}
	names := rootfs.Names{Hostname: string(id)}
	if p.network == NetworkPasta {
		names.Nameserver = netns.Nameserver
	}
	return h.skeleton.Write(h.layout.part(id, "root"), h.layout.part(id, "upper/etc"), names)
}

func (h *host) spec(id warmpool.ID, p plan) container.Spec {
	return container.Spec{
		ID: string(id), Hostname: string(id),
		Root: h.layout.part(id, "root"), Layers: []container.Layer{
			{Target: "/usr", Lower: "/usr", Upper: h.layout.part(id, "upper/usr"), Work: h.layout.part(id, "work/usr")},
			{Target: "/etc", Lower: h.etc, Upper: h.layout.part(id, "upper/etc"), Work: h.layout.part(id, "work/etc")},
		},
		Args: []string{
			insidePrograms + "/starter", "-socket", insideHandover + "/" + handoverSocket, "--",
			insidePrograms + "/envd", "-addr", "127.0.0.1", "-port", strconv.Itoa(envdPort),
			"-init-key", h.signer.PublicKey(), "-sandbox-id", string(id),
		},
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"},
		Binds: []container.Bind{
			{Source: h.programs, Target: insidePrograms}, {Source: h.layout.part(id, "run"), Target: insideHandover},
		},
		Limits: p.limits, Patient: p.patient,
	}
}

// Adopt implements machine.
func (h *host) Adopt(ctx context.Context, r record) (_ box, err error) {
	c := newCell(h, r.ID)
	c.uplink = r.Uplink
	defer func() {
		if err != nil {
			c.Detach()
		}
	}()
	if _, err := os.Stat(h.layout.part(r.ID, "run")); err != nil {
		return nil, fmt.Errorf("adopt %s: %w", r.ID, err)
	}
	if err := c.listen(); err != nil {
		return nil, err
	}
	if err := c.enter(r.Process); err != nil {
		return nil, err
	}
	if r.Uplink.PID != 0 {
		if _, err := process.Identify(r.Uplink.PID); err != nil && r.State == warmpool.Available {
			return nil, fmt.Errorf("adopt %s: its network's process has ended: %w", r.ID, err)
		}
		// This machine's addresses may be others by now, and what is barred as well.
		if err := h.fence.Hold(c.net); err != nil {
			if r.State == warmpool.Available {
				return nil, fmt.Errorf("adopt %s: %w", r.ID, err)
			}
			h.log.Error("a sandbox may reach addresses that it must not; this is tried again", "sandbox", r.ID, "error", err)
		}
	}
	if r.State == warmpool.Running && len(r.Mounts) == 0 {
		return c, nil // nothing to be taken over that the hand-over is needed for
	}
	if err := h.answers(ctx, c, r); err != nil {
		return nil, err
	}
	within, cancel := context.WithTimeout(ctx, adoptPatience)
	defer cancel()
	if err := c.node.Adopt(within); err != nil {
		h.log.Error("not every volume of an adopted sandbox could be taken over", "sandbox", r.ID, "error", err)
	}
	return c, nil
}

// adoptPatience is how long each step of taking over a sandbox that was handed out may take: all callers wait for it, and whether
// its programs answer is in its owner's hands.
const adoptPatience = 2 * time.Second

// answers waits for a sandbox that is to be taken over. One of stock must answer to be of use; one that was handed out is its owner's
// as long as it lives.
func (h *host) answers(ctx context.Context, c *cell, r record) error {
	if r.State == warmpool.Available {
		return c.await(ctx)
	}
	within, cancel := context.WithTimeout(ctx, adoptPatience)
	defer cancel()
	err := c.await(within)
	if err == nil || ctx.Err() != nil || errors.Is(err, process.ErrGone) || errors.Is(err, attach.ErrGone) {
		return err
	}
	h.log.Warn("a sandbox that was handed out does not answer; it is taken over as it is", "sandbox", r.ID, "error", err)
	return nil
}

// Watch implements machine.
func (h *host) Watch(ctx context.Context) {
	h.fence.Watch(ctx, func(err error) { h.log.Error("sandboxes may reach addresses that this machine got", "error", err) })
}

// Discard implements machine.
func (h *host) Discard(ctx context.Context, id warmpool.ID) error {
	c := newCell(h, id)
	if r, err := h.Load(id); err == nil {
		c.uplink = r.Uplink
	}
	c.dead = true // whatever of it lives is killed before its volumes are looked at
	return c.End(ctx)
}

// Known implements machine.
func (h *host) Known() ([]warmpool.ID, error) {
	names, err := h.containers.IDs()
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{h.layout.sandboxes(), h.layout.volumes()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("state directory: %w", err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	seen := map[warmpool.ID]bool{}
	var out []warmpool.ID
	for _, name := range names {
		if id, ok := warmpool.ParseID(name); ok && !seen[id] {
			seen[id] = true
			out = append(out, id)
		}
	}
	return out, nil
}

// Load implements machine.
func (h *host) Load(id warmpool.ID) (record, error) { return loadRecord(h.layout.sandbox(id), id) }

// Save implements machine.
func (h *host) Save(r record) error { return r.save(h.layout.sandbox(r.ID)) }
