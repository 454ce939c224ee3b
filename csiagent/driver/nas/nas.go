// Package nas mounts NFS exports: version 3, 4.0, 4.1 and 4.2, by the kernel's own client, as mounts that are in no mount table until
// they are attached. It talks to the kernel (fsopen) and not to mount.nfs, whose own questions to a server's portmapper and mountd
// would come from a socket like a tenant's, and could not pass the fence. What can hang runs in a process of its own, which is
// killed when its time is over. It does not know where a volume will be attached.
//
// NFS trusts the address that a request comes from, and in a pod that is the tenant's as well: what a sub path or read-only keeps from
// the tenant holds only behind the Fence.
package nas

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// Config is what the driver needs.
type Config struct {
	// Command is the program, and the arguments before ours, whose main calls Main: {"/proc/self/exe", "nas"}. Required.
	Command []string
	// Fence keeps every process but this one from NFS servers in this process's network namespace. Nil: there is none.
	Fence *Fence
	// Unfenced lets volumes be mounted without a fence although their owner restricts what may be done with them.
	Unfenced bool
	// DialTimeout bounds the search for the server and the connection that is tried before the mount; 3 s when zero.
	DialTimeout time.Duration
	// Guard says at which addresses no server may be.
	Guard mount.Guard
	// Resolver looks up servers' names; the system's when nil.
	Resolver *net.Resolver
	// Logger gets what is not the caller's to know; nothing is logged when it is nil.
	Logger *slog.Logger
}

// Driver mounts NFS exports.
type Driver struct{ config Config }

// New returns a driver.
func New(c Config) *Driver {
	if c.DialTimeout <= 0 {
		c.DialTimeout = 3 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Driver{c}
}

// Check refuses attributes and options that nothing is mounted with, and addresses that no server may have.
func Check(m mount.Mount, g mount.Guard) error {
	v, err := parse(m)
	if err != nil {
		return err
	}
	if g.CheckHost(v.server) != nil {
		return errGuarded
	}
	return nil
}

// Check refuses what the package's Check refuses, and volumes that need a fence where there is none.
func (d *Driver) Check(m mount.Mount) error {
	if err := Check(m, d.config.Guard); err != nil {
		return err
	}
	return d.Fenced(m)
}

// Fenced refuses a volume whose restrictions the tenant could walk around.
func (d *Driver) Fenced(m mount.Mount) error {
	if !m.Enforced || d.config.Fence != nil || d.config.Unfenced {
		return nil
	}
	return fmt.Errorf("%w: its owner restricts this NFS volume (read-only or a forced sub path), and nothing here keeps the sandbox from "+
		"asking the server itself; an administrator can have the agent fence NFS, or allow such volumes without a fence", mount.ErrDenied)
}

// FenceMounted refuses what Fenced refuses, of an export that somebody else has mounted, and takes its server's ports into the fence: the
// options of its file system name those that are unusual.
func (d *Driver) FenceMounted(m mount.Mount, options string) error {
	if err := d.Fenced(m); err != nil || d.config.Fence == nil {
		return err
	}
	var ports []uint16
	for word := range strings.SplitSeq(options, ",") {
		name, value, _ := strings.Cut(word, "=")
		if name != "port" && name != "mountport" {
			continue
		}
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil {
			return fmt.Errorf("fence NFS: the mount table's option %s: %w", name, err)
		}
		ports = append(ports, uint16(n))
	}
	return d.config.Fence.cover(ports...)
}

// Mount mounts the export in a process of its own and takes the mount from it; nothing happens in dir.
func (d *Driver) Mount(ctx context.Context, m mount.Mount, _ string) (mount.Source, error) {
	v, err := parse(m)
	if err != nil {
		return mount.Source{}, err
	}
	if err := d.Fenced(m); err != nil {
		return mount.Source{}, err
	}
	if d.config.Fence != nil {
		if err := d.config.Fence.cover(v.ports()...); err != nil {
			return mount.Source{}, err
		}
	}
	server, client, err := d.dial(ctx, v)
	if err != nil {
		return mount.Source{}, err
	}
	root, err := d.work(ctx, v, server, client)
	if err != nil {
		return mount.Source{}, err
	}
	return mount.Source{Root: root, FSType: "nfs", Remote: true}, nil
}

// Unmount has nothing to do: the kernel lets go of the server with the last mount.
func (d *Driver) Unmount(context.Context, string, mount.Process) error { return nil }

// work has a process mount v and returns the mount.
func (d *Driver) work(ctx context.Context, v volume, server, client netip.Addr) (*os.File, error) {
	root, ans, err := run(ctx, d.config.Command, v.task(server, client))
	if err != nil {
		if errors.Is(err, errHung) {
			return nil, fmt.Errorf("%w: the server at the attribute server did not answer in time", mount.ErrUnavailable)
		}
		return nil, err
	}
	if ans.Errno == 0 {
		return root, nil
	}
	d.config.Logger.InfoContext(ctx, "NFS volume not mounted", "step", ans.Step, "error", ans.Errno.Error(), "kernel", ans.Said)
	return nil, classify(v, ans)
}
