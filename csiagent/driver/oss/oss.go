package oss

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// Config is what the driver needs. The zero value is usable.
type Config struct {
	// Path are the directories in which FUSE clients are looked for; the system's usual ones when empty.
	Path []string
	// DialTimeout bounds the connection that is tried before a client is started; 3 s when zero.
	DialTimeout time.Duration
	// Guard says at which addresses no store may be.
	Guard mount.Guard
	// Resolver looks up stores' names; the system's when nil.
	Resolver *net.Resolver
	// Identity is how this agent gets credentials of a role; nil when it has no identity.
	Identity Exchanger
	// Logger gets what a client wrote when it failed; nothing is logged when it is nil.
	Logger *slog.Logger
}

// Driver starts and ends FUSE clients.
type Driver struct {
	config Config

	mu      sync.Mutex
	clients map[mount.Process]*client // those this process has started and nobody has unmounted
	holders map[mount.Process]holder  // of those, and of earlier ones, that need one
}

// New returns a driver.
func New(c Config) *Driver {
	if len(c.Path) == 0 {
		c.Path = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
	}
	if c.DialTimeout <= 0 {
		c.DialTimeout = 3 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Driver{config: c, clients: map[mount.Process]*client{}, holders: map[mount.Process]holder{}}
}

// Check refuses attributes, options and credentials that no client is started with, addresses that no store may have, and clients that are
// not installed.
func (d *Driver) Check(m mount.Mount) error {
	v, _, err := d.command(m, "/")
	if err == nil {
		err = v.guarded(d.config.Guard)
	}
	if err == nil && v.role != (Role{}) && d.config.Identity == nil {
		err = errNoIdentity
	}
	return err
}

// Check is Driver.Check where the client is on another machine: it says what is wrong with m whichever client will mount it.
func Check(m mount.Mount, g mount.Guard) error {
	v, err := parse(m)
	if err != nil {
		return err
	}
	if err := v.guarded(g); err != nil {
		return err
	}
	last := instead[v.fuseType][len(instead[v.fuseType])-1] // the one that takes every other's place
	_, err = v.argv(last, last, "/")
	return err
}

// command is how the client for m on dir is started.
func (d *Driver) command(m mount.Mount, dir string) (v volume, l launch, err error) {
	if v, err = parse(m); err != nil {
		return v, l, err
	}
	name, program, err := choose(v.fuseType, d.config.Path)
	if err != nil {
		return v, l, err
	}
	l, err = v.argv(name, program, dir)
	return v, l, err
}

// Mount starts a client on dir. It returns when the mount is there and the client alive; whether it can be read, a probe says.
func (d *Driver) Mount(ctx context.Context, m mount.Mount, dir string) (mount.Source, error) {
	v, l, err := d.command(m, dir)
	if err != nil {
		return mount.Source{}, err
	}
	if err := d.signIn(ctx, &v); err != nil {
		return mount.Source{}, err
	}
	// A client that cannot connect tries for seconds; nobody listening is known at once.
	if err := d.dial(ctx, v.endpoint); err != nil {
		return mount.Source{}, err
	}
	c, err := d.start(&v, l)
	if err != nil {
		return mount.Source{}, err
	}
	src, err := d.source(ctx, c, dir)
	if err != nil {
		err = errors.Join(d.reason(ctx, c, err), d.abort(ctx, c, dir))
		return mount.Source{}, err
	}
	return src, nil
}

// start starts a client, with whoever dials for it or holds its credentials.
func (d *Driver) start(v *volume, l launch) (*client, error) {
	if !l.relayed && !l.tokens {
		c, err := start(l, v.keys, nil)
		if err == nil {
			d.keep(c, nil)
		}
		return c, err
	}
	h, shared, err := d.hold(v, l)
	if err != nil {
		return nil, err
	}
	c, err := start(l, v.keys, shared.dir)
	if err != nil {
		h.close()
		return nil, err
	}
	if v.role != (Role{}) {
		h = d.refresh(*v, h, c.hide)
	}
	d.keep(c, h)
	return c, nil
}

func (d *Driver) source(ctx context.Context, c *client, dir string) (mount.Source, error) {
	fstype, err := mounted(ctx, c.process, dir)
	if err != nil {
		return mount.Source{}, err
	}
	if fstype != "fuse" && !strings.HasPrefix(fstype, "fuse.") {
		return mount.Source{}, fmt.Errorf("staging directory became %q, not a FUSE mount", fstype)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return mount.Source{}, fmt.Errorf("open mount: %w", err)
	}
	return mount.Source{
		Root: os.NewFile(uintptr(fd), "oss"), FSType: fstype, Remote: true, Client: c.process,
		StoresOnClose: fstype == "fuse.s3fs" || fstype == "fuse.ossfs", // of ossfs2 nobody here knows
	}, nil
}

// abort ends a client whose mount nobody has got.
func (d *Driver) abort(ctx context.Context, c *client, dir string) error {
	over, cancel := context.WithCancel(context.WithoutCancel(ctx))
	cancel()
	err := d.unmount(over, dir, c.process)
	if errors.Is(err, errKilled) {
		return nil
	}
	return err
}

// errKilled is a client that did not end by itself.
var errKilled = errors.New("the FUSE client was killed before it had finished; what it had not uploaded is lost")

// Unmount waits until the client has uploaded and ended by itself, which it does once nobody has its mount, and kills it when ctx
// ends first: then it returns an error, since data may be missing, and so when somebody else has killed a client of this process.
func (d *Driver) Unmount(ctx context.Context, dir string, p mount.Process) error {
	return d.unmount(ctx, dir, p)
}

func (d *Driver) unmount(ctx context.Context, dir string, p mount.Process) error {
	if err := unmount(dir); err != nil {
		return err
	}
	if p.PID == 0 {
		return nil
	}
	killed, err := end(ctx, p)
	if err != nil {
		return err
	}
	if d.forget(ctx, p) || killed {
		return errKilled
	}
	return nil
}

// Explain says why the volume of a client that this process has started does not work, nil when the client lives and nobody stands by it
// who knows, or when it is not known.
func (d *Driver) Explain(ctx context.Context, p mount.Process) error {
	d.mu.Lock()
	c, h := d.clients[p], d.holders[p]
	d.mu.Unlock()
	switch {
	case c == nil:
		return nil
	case !c.ended(ctx, explainGrace):
		if h != nil {
			return h.trouble()
		}
		return nil
	}
	if c.signaled() {
		return c.obituary()
	}
	return d.reason(ctx, c, errEnded)
}

// explainGrace is how long a client may take to end after its mount was found broken.
const explainGrace = 500 * time.Millisecond

// reason turns the end of a client into what its output says.
func (d *Driver) reason(ctx context.Context, c *client, err error) error {
	if !errors.Is(err, errEnded) {
		return err
	}
	over := c.ended(context.WithoutCancel(ctx), explainGrace) // it may end after its mount did
	said := c.output()
	d.config.Logger.WarnContext(ctx, "FUSE client ended", "pid", c.process.PID, "output", lastWords(said))
	if h := d.holder(c.process); h != nil && h.trouble() != nil {
		return h.trouble()
	}
	known := classify(said)
	if errors.Is(known, errUnsaid) && over {
		return c.obituary()
	}
	return known
}

func (d *Driver) keep(c *client, h holder) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clients[c.process] = c
	if h != nil {
		d.holders[c.process] = h
	}
}

// forget lets go of a client that has ended, and says whether a signal has ended it.
func (d *Driver) forget(ctx context.Context, p mount.Process) (signaled bool) {
	d.mu.Lock()
	c, h := d.clients[p], d.holders[p]
	delete(d.clients, p)
	delete(d.holders, p)
	d.mu.Unlock()
	if h != nil {
		h.close()
	}
	if c != nil {
		over := c.ended(context.WithoutCancel(ctx), killGrace) // reaped, so that no zombie is left when this returns
		signaled = over && c.signaled() && !c.parting()
		_ = c.log.Close()
	}
	return signaled
}

// dial says whether anybody listens at the endpoint, which must not be an address that only this machine's owner may talk to.
func (d *Driver) dial(ctx context.Context, u *url.URL) error {
	port := u.Port()
	if port == "" {
		port = u.Scheme
	}
	conn, err := d.dialer().DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err == nil {
		return conn.Close()
	}
	if errors.Is(err, mount.ErrBarred) {
		return errGuarded
	}
	d.config.Logger.InfoContext(ctx, "object store unreachable", "host", u.Host, "error", err)
	return fmt.Errorf("%w: nobody answers at the attribute url", mount.ErrUnavailable)
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// dialer looks at the address that a name has led to.
func (d *Driver) dialer() *net.Dialer {
	return &net.Dialer{Timeout: d.config.DialTimeout, Control: d.config.Guard.Control, Resolver: d.config.Resolver}
}

var errGuarded = fmt.Errorf("%w: the attribute url leads to an address at which no store may be: loopback, link-local, a cloud's metadata, the cluster's "+
	"API server, or one that the administrator bars", mount.ErrDenied)

// guarded refuses an endpoint of which it shows without a look-up that it is barred.
func (v *volume) guarded(g mount.Guard) error {
	if g.CheckHost(v.endpoint.Hostname()) != nil {
		return errGuarded
	}
	return nil
}
