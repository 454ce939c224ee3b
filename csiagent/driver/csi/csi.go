package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// Config is what a Driver needs. Fields without a default are required.
type Config struct {
	// Name is the driver's, as PersistentVolumes and the plugin itself say it.
	Name string
	// Socket is where the plugin listens.
	Socket string
	// Dir is a directory of this Driver's own, for what it has begun and for the mounts; nobody but root may enter it.
	Dir string
	// Context is added to the volume context of every volume that does not say otherwise. What begins with csi.storage.k8s.io/, such as the pod's
	// UID for drivers that want to know it, is as it is here whatever the volume says.
	Context map[string]string
	// CallTimeout bounds each call; 15 s when zero.
	CallTimeout time.Duration
	// RetryFor is how long a mount is tried again after a plugin that was not there, or said that it is busy; 5 s when zero.
	RetryFor time.Duration
	// Hide gets what must not be in any log before a call tells it to the plugin; nil when nobody logs what the plugin writes.
	Hide *Hide
	// Logger gets what plugins say, without secrets; nothing is logged when it is nil.
	Logger *slog.Logger
}

// Driver mounts volumes by a CSI node plugin.
type Driver struct {
	config Config
	conn   *grpc.ClientConn
	book   book
	locks  mount.Locks[string] // by the volume's handle: a plugin may refuse a call while another one about the same volume is under way
	wake   chan struct{}
	deaths atomic.Int32 // of the plugin, while it was asked for its controller
}

const (
	tidyPause = 30 * time.Second // between tries to undo what could not be undone
	undoTime  = 6 * time.Second  // for a mount that failed
)

// ValidName says whether name can be a CSI driver's. An expression would be in the memory of every agent, with a plugin or without.
func ValidName(name string) bool {
	const inside = "._-"
	return len(name) > 0 && len(name) <= 63 && strings.Trim(name, inside) == name && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(inside, r)
	})
}

// New returns a driver. The plugin need not be there yet.
func New(c Config) (*Driver, error) {
	switch {
	case !ValidName(c.Name):
		return nil, fmt.Errorf("csi: Name %q must be a CSI driver's: at most 63 letters, digits, - . and _", c.Name)
	case !filepath.IsAbs(c.Socket) || len(c.Socket) > maxSocket:
		return nil, fmt.Errorf("csi: Socket must be an absolute path of at most %d bytes", maxSocket)
	case !filepath.IsAbs(c.Dir):
		return nil, errors.New("csi: Dir must be an absolute path")
	}
	if c.CallTimeout <= 0 {
		c.CallTimeout = 15 * time.Second
	}
	if c.RetryFor <= 0 {
		c.RetryFor = 5 * time.Second
	}
	if c.Hide == nil {
		c.Hide = &Hide{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	b, err := openBook(c.Dir)
	if err != nil {
		return nil, err
	}
	conn, err := dial(c.Socket)
	if err != nil {
		return nil, err
	}
	return &Driver{config: c, conn: conn, book: b, wake: make(chan struct{}, 1)}, nil
}

// Close lets go of the plugin. Volumes stay.
func (d *Driver) Close() error { return d.conn.Close() }

// Check has nothing to refuse: what a volume must look like only its driver knows.
func (d *Driver) Check(mount.Mount) error { return nil }

// Mount stages and publishes m's volume; nothing happens in dir, whose name tells the place.
func (d *Driver) Mount(ctx context.Context, m mount.Mount, dir string) (mount.Source, error) {
	at := place(dir)
	if err := d.end(ctx, at); err != nil {
		return mount.Source{}, fmt.Errorf("%w: the driver has not let go of the volume that was at this target before", mount.ErrUnavailable)
	}
	unlock, err := d.locks.Take(ctx, m.VolumeHandle)
	if err != nil {
		return mount.Source{}, fmt.Errorf("%w: another request works on this volume", mount.ErrUnavailable)
	}
	defer unlock()
	v := d.volume(m)
	src, err := d.mount(ctx, v, at)
	if err != nil {
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		if undo := d.undo(within, at); undo != nil {
			d.config.Logger.WarnContext(ctx, "undo of a failed mount, tried again later", "driver", d.config.Name, "error", undo)
		}
		return mount.Source{}, err
	}
	return src, nil
}

func (d *Driver) mount(ctx context.Context, v volume, at string) (mount.Source, error) {
	// What a plugin that hung has mounted here after it was told to take it back, it would take for this volume.
	if err := d.book.clear(d.book.target(at)); err != nil {
		return mount.Source{}, err
	}
	if err := d.patient(ctx, func() error { return d.bring(ctx, v, at) }); err != nil {
		return mount.Source{}, d.refusal(ctx, err)
	}
	root, err := d.book.open(at, v.VolumeHandle)
	if err != nil {
		d.config.Logger.WarnContext(ctx, "the driver said that it had published", "driver", d.config.Name, "error", err)
		return mount.Source{}, fmt.Errorf("%w: driver %s said that the volume was mounted, and it is not", mount.ErrUnavailable, d.config.Name)
	}
	// Whatever it is, it may hang.
	return mount.Source{Root: root, SubPath: v.SubPath, Remote: true}, nil
}

const firstWait, lastWait = 50 * time.Millisecond, time.Second

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Unmount unpublishes what was published for the place that dir names, and unstages it when nobody else has it.
func (d *Driver) Unmount(ctx context.Context, dir string, _ mount.Process) error {
	return d.end(ctx, place(dir))
}

// Keep ends, sooner or later, what was begun for other places than those of dirs.
func (d *Driver) Keep(_ context.Context, dirs []string) error {
	keep := map[string]bool{}
	for _, dir := range dirs {
		keep[place(dir)] = true
	}
	records, err := d.book.all()
	for at, r := range records {
		if !keep[at] && !r.Ending {
			r.Ending = true
			err = errors.Join(err, d.book.write(at, r))
		}
	}
	d.nudge()
	return err
}

// Run meets the plugin, before a sandbox waits for it, and undoes, until ctx ends, what could not be undone when it was to be.
func (d *Driver) Run(ctx context.Context) error {
	var met sync.WaitGroup
	met.Go(func() {
		err := d.patient(ctx, func() error { _, err := d.meet(ctx); return err })
		if err != nil && ctx.Err() == nil {
			d.config.Logger.WarnContext(ctx, "the plugin is of no use yet", "driver", d.config.Name, "error", err)
		}
	})
	defer met.Wait()
	tick := time.NewTicker(tidyPause)
	defer tick.Stop()
	for {
		if err := d.tidy(ctx); err != nil && ctx.Err() == nil {
			d.config.Logger.WarnContext(ctx, "volumes that are not let go of yet", "driver", d.config.Name, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-d.wake:
		}
	}
}

func (d *Driver) tidy(ctx context.Context) error {
	records, err := d.book.all()
	for at, r := range records {
		if r.Ending {
			err = errors.Join(err, d.endIf(ctx, at, ending))
		}
	}
	return err
}

func (d *Driver) nudge() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// end takes back what was begun at a place. Whoever calls it is the only one who begins anything there.
func (d *Driver) end(ctx context.Context, at string) error { return d.endIf(ctx, at, always) }

func always(record) bool { return true }

func ending(r record) bool { return r.Ending }

// endIf is undo, for somebody who does not have the volume's lock, of what is as wanted. Who waits for the lock may find that another has
// ended it meanwhile and begun the next there, which is not to be touched, least of all with the lock of another volume.
func (d *Driver) endIf(ctx context.Context, at string, wanted func(record) bool) error {
	was, there, err := d.book.read(at)
	if err != nil || !there {
		return err
	}
	unlock, err := d.locks.Take(ctx, was.Handle)
	if err != nil {
		return fmt.Errorf("wait for the volume: %w", err)
	}
	defer unlock()
	is, there, err := d.book.read(at)
	if err != nil || !there || is.Handle != was.Handle || !wanted(is) {
		return err
	}
	return d.undo(ctx, at)
}

// undo takes back what was begun at a place. What it cannot take back stays written down, for Run. The volume's lock is held.
func (d *Driver) undo(ctx context.Context, at string) error {
	r, there, err := d.book.read(at)
	if err != nil || !there {
		return err
	}
	r.Ending = true
	if err := d.book.write(at, r); err != nil {
		return err
	}
	return d.take(ctx, at, r)
}
