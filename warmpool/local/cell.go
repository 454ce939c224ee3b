package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/handover"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/local/netns"
	"github.com/sandgate-dev/sandgate/warmpool/local/process"
	"github.com/sandgate-dev/sandgate/warmpool/local/rootfs"
)

// cell is one container of this machine and everything that this process holds of it.
type cell struct {
	host   *host
	id     warmpool.ID
	uplink mount.Process
	dead   bool // by decree: nothing of it is asked any more

	watch    *process.Watch
	net      *netns.Namespace
	client   *http.Client
	receiver *handover.Receiver
	node     *node.Node
	serving  sync.WaitGroup
	stop     context.CancelFunc

	mu      sync.Mutex // guards what follows
	disk    int64
	counted time.Time
}

var _ box = (*cell)(nil)

func newCell(h *host, id warmpool.ID) *cell { return &cell{host: h, id: id, stop: func() {}} }

// listen makes the socket of the hand-over and the node that works through it.
func (c *cell) listen() error {
	receiver, err := handover.Listen(handover.Config{
		Socket: filepath.Join(c.host.layout.part(c.id, "run"), handoverSocket), Threads: c.host.threads,
	})
	if err != nil {
		return fmt.Errorf("sandbox %s: %w", c.id, err)
	}
	c.receiver = receiver
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	c.serving.Go(func() {
		if err := receiver.Serve(ctx); err != nil {
			c.host.log.Error("hand-over", "sandbox", c.id, "error", err)
		}
	})
	return c.openNode()
}

func (c *cell) openNode() (err error) {
	c.node, err = c.newNode()
	return err
}

func (c *cell) newNode() (*node.Node, error) {
	n, err := node.New(node.Config{
		Dir: c.host.layout.volumesOf(c.id), Drivers: c.host.drivers, Target: c.target, Policy: c.host.policy,
		Probe: c.host.probe, Clock: c.host.clock, Logger: c.host.log.With("sandbox", c.id),
	})
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", c.id, err)
	}
	return n, nil
}

// target is the container's mount namespace. Of a dead container there is none, and nobody needs to wait for it.
func (c *cell) target(ctx context.Context, _ string) (node.Target, error) {
	if c.dead || c.receiver == nil || c.watch == nil {
		return nil, attach.ErrGone
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	found := make(chan struct{})
	defer close(found)
	go func() {
		select {
		case <-c.watch.Gone():
			cancel()
		case <-found:
		}
	}()
	ns, err := c.receiver.Namespace(ctx)
	select {
	case <-c.watch.Gone():
		return nil, attach.ErrGone
	default:
	}
	if err != nil {
		return nil, err
	}
	return ns, nil
}

// enter opens the way to the living process p.
func (c *cell) enter(p mount.Process) error {
	watch, err := process.Open(p)
	if err != nil {
		return fmt.Errorf("sandbox %s: %w", c.id, err)
	}
	c.watch = watch
	if c.net, err = netns.Of(p.PID); err != nil {
		return fmt.Errorf("sandbox %s: %w", c.id, err)
	}
	// One connection stays open from here on, so that a claim need not make one.
	c.client = &http.Client{Transport: &http.Transport{
		DialContext:  func(ctx context.Context, _, _ string) (net.Conn, error) { return c.net.Dial(ctx, envdPort) },
		MaxIdleConns: 1, MaxIdleConnsPerHost: 1, DisableCompression: true,
	}}
	return nil
}

var baseURL = fmt.Sprintf("http://127.0.0.1:%d", envdPort)

// await returns when the sandbox has handed its namespace over and its daemon answers.
func (c *cell) await(ctx context.Context) error {
	if _, err := c.target(ctx, ""); err != nil {
		return fmt.Errorf("sandbox %s: %w", c.id, err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := c.health(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-c.watch.Gone():
			return fmt.Errorf("sandbox %s: %w", c.id, process.ErrGone)
		case <-ctx.Done():
			return fmt.Errorf("sandbox %s: its daemon does not answer: %w", c.id, err)
		case <-tick.C:
		}
	}
}

func (c *cell) health(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, baseURL+"/health", http.NoBody)
	if err != nil {
		return err
	}
	res, err := c.client.Do(req)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 4<<10)) // read to the end, so that the connection is kept
	_ = res.Body.Close()
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("health: status %d", res.StatusCode)
	}
	return nil
}

// Process implements box.
func (c *cell) Process() mount.Process { return c.watch.Process }

// Uplink implements box.
func (c *cell) Uplink() mount.Process { return c.uplink }

// Gone implements box.
func (c *cell) Gone() <-chan struct{} { return c.watch.Gone() }

// Dial implements box.
func (c *cell) Dial(ctx context.Context, port uint16) (net.Conn, error) { return c.net.Dial(ctx, port) }

// Init implements box. The daemon takes the same word twice, so one that was lost on a dying connection is said again.
func (c *cell) Init(ctx context.Context, token warmpool.Token, env map[string]string) (string, error) {
	now := time.Now()
	req := initialize.Request{AccessToken: token.Reveal(), EnvVars: env, DefaultUser: "user", Timestamp: &now}
	version, err := initialize.Init(ctx, c.client, baseURL, string(c.id), req, c.host.signer)
	if err != nil && !errors.Is(err, initialize.ErrRefused) && ctx.Err() == nil {
		version, err = initialize.Init(ctx, c.client, baseURL, string(c.id), req, c.host.signer)
	}
	return version, err
}

// Isolate implements box.
func (c *cell) Isolate(ctx context.Context) error { return netns.Disconnect(ctx, c.uplink) }

// Publish implements box.
func (c *cell) Publish(ctx context.Context, m mount.Mount) error { return c.node.Publish(ctx, m) }

// Refresh implements box.
func (c *cell) Refresh(ctx context.Context, m mount.Mount) error { return c.node.Refresh(ctx, m) }

// Unpublish implements box.
func (c *cell) Unpublish(ctx context.Context, target string, force bool) error {
	if force {
		return c.node.Unpublish(ctx, node.Identity{Target: target})
	}
	return c.node.UnpublishIdle(ctx, node.Identity{Target: target})
}

// Look implements box.
func (c *cell) Look(ctx context.Context) map[string]node.Health {
	out := map[string]node.Health{}
	for _, m := range c.node.Mounts(ctx) {
		out[m.ID] = m.Health
	}
	return out
}

// Known implements box.
func (c *cell) Known() map[string]node.Live {
	out := map[string]node.Live{}
	for _, m := range c.node.Known() {
		out[m.ID] = m
	}
	return out
}

// End implements box. The processes go first: their open files would keep the volumes from being written back to the end.
func (c *cell) End(ctx context.Context) error {
	if err := c.kill(ctx); err != nil {
		return err
	}
	if err := netns.Disconnect(ctx, c.uplink); err != nil {
		return err
	}
	if err := c.endVolumes(ctx); err != nil {
		return err
	}
	c.Detach()
	return errors.Join(rootfs.Remove(c.host.layout.volumesOf(c.id)), rootfs.Remove(c.host.layout.sandbox(c.id)))
}

// patience is how long processes may take to end: as long as a volume's client may take to upload.
const patience = 10 * time.Second

// kill ends the container's processes. One that waits for a volume's client does not end before that answers or dies.
func (c *cell) kill(ctx context.Context) error {
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := c.host.containers.Delete(within, string(c.id))
	if err == nil || ctx.Err() != nil {
		return err
	}
	volumes := c.node
	if volumes == nil { // of an earlier process; endVolumes takes them over
		if volumes, err = c.newNode(); err != nil {
			return err
		}
		defer volumes.Close()
	}
	if err := volumes.Abandon(ctx); err != nil {
		c.host.log.Warn("volumes of a sandbox that does not end", "sandbox", c.id, "error", err)
	}
	return c.host.containers.Delete(ctx, string(c.id))
}

// endVolumes waits until the volumes are written back and their clients have ended.
func (c *cell) endVolumes(ctx context.Context) error {
	if c.watch != nil {
		select {
		case <-c.watch.Gone():
		case <-ctx.Done():
			return fmt.Errorf("sandbox %s: its first process does not end: %w", c.id, ctx.Err())
		}
	}
	if c.node == nil {
		if _, err := os.Stat(c.host.layout.volumesOf(c.id)); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err := c.openNode(); err != nil {
			return err
		}
		if err := c.node.Adopt(ctx); err != nil {
			c.host.log.Warn("volumes of a sandbox that is being ended", "sandbox", c.id, "error", err)
		}
	}
	err := c.node.UnpublishAll(ctx)
	if errors.Is(err, node.ErrDataLoss) {
		c.host.log.Warn("sandbox ended, but the last writes to a volume may be missing", "sandbox", c.id, "error", err)
		err = nil
	}
	return err
}

// Detach implements box.
func (c *cell) Detach() {
	c.stop()
	c.serving.Wait()
	if c.node != nil {
		c.node.Close()
	}
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
	if c.watch != nil {
		c.watch.Close()
	}
	if c.net != nil {
		c.host.fence.Drop(c.net)
		c.net.Close()
	}
}

// diskAge is how long a count of the private files is good for; most is where counting stops.
const (
	diskAge = 30 * time.Second
	most    = 50_000
)

// Usage implements box.
func (c *cell) Usage() (sample, error) {
	u, err := c.host.containers.Usage(string(c.id))
	if err != nil {
		return sample{}, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(c.host.layout.sandbox(c.id), &st); err != nil {
		return sample{}, fmt.Errorf("disk usage: %w", err)
	}
	used := c.diskUsed()
	return sample{
		cpu: u.CPU, memory: u.Memory, cache: u.Cache,
		diskUsed: used, diskTotal: used + int64(st.Bavail)*st.Bsize,
	}, nil
}

// diskUsed counts what the sandbox has written, now and then.
func (c *cell) diskUsed() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.counted) < diskAge {
		return c.disk
	}
	c.disk, c.counted = rootfs.Size(most, c.host.layout.part(c.id, "root"), c.host.layout.part(c.id, "upper")), time.Now()
	return c.disk
}
