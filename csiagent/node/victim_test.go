package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	_ "unsafe" // for a step inside of attach

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/clients"
	"github.com/sandgate-dev/sandgate/csiagent/driver/oss"
	"github.com/sandgate-dev/sandgate/csiagent/driver/tmpfs"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

// stepsOf are the steps of an agent's work, in order; between two of them it can be killed. A volume in use has one more at its end: seal.
var stepsOf = map[string][]string{
	"publish":   {"started", "mounted", "probed", "begun", "attach", "attached"},
	"heal":      {"mounted", "probed", "begun", "replace", "between", "replaced", "committed", "ended"},
	"unpublish": {"opened", "probed", "synced", "detach", "detached", "drained", "removed"},
	// and those of an ephemeral volume: its first mount, that of a container that has started again, one that is lost, and its last one
	"share":       {"mounted", "begun", "attach", "attached", "committed", "remembered", "clone", "cloned"},
	"share again": {"removed", "begun", "attach", "attached", "committed", "remembered", "clone", "cloned"},
	"lose":        {"removed", "told", "mounted", "begun", "attach", "attached"},
	"unshare":     {"discarded", "detach", "detached", "removed"},
}

func TestAnAgentKilledAtAnyStepLeavesNothingThatAdoptDoesNotFind(t *testing.T) {
	s := newStore(t)
	for doing, steps := range stepsOf {
		for _, step := range steps {
			t.Run(doing+"/"+step, func(t *testing.T) {
				if sharing(doing) {
					p := newPair(t)
					require.Equal(t, "killed", p.runVictim(doing, step))
					require.NoError(t, p.recovered(doing))
					return
				}
				w := newWorld(t)
				require.Equal(t, "killed", runVictim(t, w, s, doing+":"+step))
				require.NoError(t, recovered(w, s, doing))
			})
		}
	}
}

// The check of it must be able to fail: an agent that had written nothing down.
func TestAnAgentThatForgetsIsFoundOut(t *testing.T) {
	s := newStore(t)
	for _, step := range []string{"publish:attached", "heal:between", "unpublish:detach"} {
		w := newWorld(t)
		require.Equal(t, "killed", runVictim(t, w, s, step))
		kept := filepath.Join(w.config.Dir, "journal")
		require.NoError(t, os.Rename(kept, kept+".away"))
		require.NoError(t, os.Mkdir(kept, 0o700))
		doing, _, _ := strings.Cut(step, ":")
		require.Error(t, recovered(w, s, doing), step)
		require.NoError(t, os.RemoveAll(kept))
		require.NoError(t, os.Rename(kept+".away", kept))
		w.restart()
		require.NoError(t, w.Adopt(t.Context()), "with its journal it finds all")
	}
}

func sharing(doing string) bool {
	return slices.Contains([]string{"share", "share again", "lose", "unshare"}, doing)
}

// runVictim is runVictim in the first container, which may have been another one before.
func (p *pair) runVictim(doing, step string) string {
	second := strconv.Itoa(p.box[""].pid)
	switch doing {
	case "share again":
		defer p.world.box.end()
	case "lose":
		require.Equal(p.t, "killed", runVictim(p.t.(*testing.T), p.world, &store{}, "share:killed"))
		p.world.box.end()
		p.world.box = p.box[""]
	default:
		p.world.box = p.box[""]
	}
	return runVictim(p.t.(*testing.T), p.world, &store{}, doing+":"+step, "SECOND="+second)
}

func TestAnEphemeralVolumeThatALaterAgentHasFoundIsNotQuietlyLost(t *testing.T) {
	p := newPair(t)
	require.Equal(t, "killed", p.runVictim("share", "committed"))
	require.NoError(t, p.Adopt(t.Context()))
	p.Close() // with what it holds
	p.end("")
	p.begin("")
	p.restart()
	require.NoError(t, p.Adopt(t.Context()))
	require.ErrorContains(t, p.Publish(t.Context(), state("", false)), "its content is lost")
	p.publish(state("", false))
}

// recovered is recovered for a volume that containers share: it is never empty unless that was told or asked for, and nothing is told that
// is not so.
func (p *pair) recovered(doing string) error {
	ctx, volume := p.t.Context(), state("", false)
	id := node.Identity{VolumeHandle: volume.VolumeHandle, Target: volume.Target}
	if err := p.Adopt(ctx); err != nil {
		return err
	}
	if doing == "unshare" { // whoever asked for it asks again
		if err := p.Unpublish(ctx, id); err != nil {
			return err
		}
	}
	err := p.Publish(ctx, volume)
	told := err != nil && strings.Contains(err.Error(), "its content is lost")
	if told && (doing == "share again" || doing == "lose") {
		err = p.Publish(ctx, volume)
	}
	if err != nil {
		return err
	}
	_, err = os.Stat(p.file("", "f"))
	switch empty := errors.Is(err, os.ErrNotExist); {
	case doing == "share again" && told != empty:
		return fmt.Errorf("it was told to be lost: %t, and is empty: %t", told, empty)
	case doing == "lose" && !told:
		return errors.New("its loss was not told")
	case doing != "share again" && !empty:
		return errors.New("it is not empty")
	}
	for range 2 { // it ends, and another one of its name does
		if err := p.Unpublish(ctx, id); err != nil {
			return err
		}
		if left := append(p.files(), p.box[""].mounts(p.t, volume.Target)...); len(left) > 0 {
			return fmt.Errorf("left at the end: %q", left)
		}
		if err := p.Publish(ctx, volume); err != nil {
			return err
		}
		if _, err := os.Stat(p.file("", "f")); err == nil {
			return errors.New("it has what another one of its name had")
		}
	}
	return nil
}

// recovered says what an agent that comes after one that was killed does not find or does not mend.
func recovered(w *world, s *store, doing string) error {
	t := w.t
	volume := s.volume("/data")
	there := len(w.box.mounts(t, "/data"))
	if doing == "heal" && there == 0 {
		return errors.New("the bare directory was to be seen")
	}
	if err := w.Adopt(t.Context()); err != nil {
		return err
	}
	if doing == "publish" {
		deadline := time.Now().Add(5 * time.Second)
		for len(leftovers(t, w.config.Dir)) > 0 && time.Now().Before(deadline) {
			unix.Nanosleep(&unix.Timespec{Nsec: 5e6}, nil)
		}
		if left := leftovers(t, w.config.Dir); len(left) > 0 || len(w.box.mounts(t, "/data")) > 0 || len(w.Mounts(t.Context())) > 0 {
			return fmt.Errorf("left: %q", left)
		}
	}
	if doing != "unpublish" { // whoever asked for it asks again
		if err := w.Publish(t.Context(), volume); err != nil {
			return err
		}
		if h := verdict(w); !h.Works() {
			return fmt.Errorf("it is %s: %s", h.Verdict, h.Message)
		}
		if n := len(w.box.mounts(t, "/data")); n != 1 {
			return fmt.Errorf("%d mounts lie upon another", n)
		}
		if got, err := os.ReadFile(w.box.path("data", "f")); doing == "heal" && (err != nil || string(got) != "x") {
			return fmt.Errorf("the file reads %q: %w", got, err)
		}
	}
	if err := w.Unpublish(t.Context(), node.Identity{Target: "/data"}); err != nil {
		return err
	}
	if left := append(leftovers(t, w.config.Dir), w.box.mounts(t, "/data")...); len(left) > 0 {
		return fmt.Errorf("left at the end: %q", left)
	}
	if files := w.files(); len(files) > 0 {
		return fmt.Errorf("files are left: %q", files)
	}
	if got, err := os.ReadFile(filepath.Join(s.dir, "data", "f")); doing != "publish" && (err != nil || string(got) != "x") {
		return fmt.Errorf("the object is %q: %w", got, err)
	}
	return nil
}

// victim is the process that publishes, and heals or unpublishes when its step is one of that.
func victim(args []string) int {
	dir, pid, address, at := args[0], args[1], args[2], args[3]
	doing, step, _ := strings.Cut(at, ":")
	f, err := os.Open(filepath.Join("/proc", pid, "ns", "mnt"))
	if err != nil {
		return 1
	}
	namespace, err := attach.NewNamespace(f, attach.NewThreads(1))
	if err != nil {
		return 1
	}
	var driver source = oss.New(local)
	switch socket := os.Getenv("CLIENTS"); {
	case socket != "":
		driver = &clients.Driver{Socket: socket, Checks: func(mount.Mount) error { return nil }}
	case step == "started":
		c := local
		c.Path = []string{os.Getenv("MURDERER")}
		driver = oss.New(c)
	}
	d := &deadly{Namespace: namespace, source: driver, Prober: prober()}
	between = func() { d.die("between") }
	node.Wrote(func(what string) { d.die(what) })
	var mounts node.Driver = d
	if o, ok := driver.(node.Opener); ok {
		mounts = opening{d, o}
	}
	n, err := node.New(node.Config{
		Dir: dir, Drivers: map[string]node.Driver{mount.DriverOSS: mounts, mount.DriverEphemeral: memories{&tmpfs.Driver{}, d}}, Policy: mount.DefaultPolicy(), Probe: d,
		Target: func(context.Context, string) (node.Target, error) { return d, nil },
	})
	if err != nil {
		return 1
	}
	if doing == "lose" {
		d.step = step
	}
	if err := n.Adopt(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if doing == "publish" || doing == "share" {
		d.step = step
	}
	if sharing(doing) {
		if err := shares(d, n, doing, step, pid); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	if err := n.Publish(context.Background(), (&store{address: address}).volume("/data")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	switch doing {
	case "again":
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	case "heal", "unpublish":
		if err := os.WriteFile(filepath.Join("/proc", pid, "root/data/f"), []byte("x"), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		d.step = step
	}
	if doing == "unpublish" {
		err = n.Unpublish(context.Background(), node.Identity{Target: "/data"})
	}
	if doing == "heal" {
		_ = unix.Kill(d.client.PID, unix.SIGKILL)
		time.Sleep(10 * time.Second) //nolint:forbidigo // it is killed meanwhile
	}
	fmt.Fprintln(os.Stderr, err)
	return 0
}

// shares is what victim does with an ephemeral volume.
func shares(d *deadly, n *node.Node, doing, step, pid string) error {
	ctx, volume := context.Background(), state("", false)
	err := n.Publish(ctx, volume)
	if doing == "lose" && err != nil {
		d.die("told")
		err = n.Publish(ctx, volume)
	}
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join("/proc", pid, "root", volume.Target, "f"), nil, 0o600); err != nil {
		return err
	}
	d.die("killed")
	d.step = step
	if doing == "unshare" {
		return n.Unpublish(ctx, node.Identity{Target: volume.Target})
	}
	f, err := os.Open(filepath.Join("/proc", os.Getenv("SECOND"), "ns", "mnt"))
	if err != nil {
		return err
	}
	if d.Namespace, err = attach.NewNamespace(f, attach.NewThreads(1)); err != nil {
		return err
	}
	return n.Publish(ctx, volume)
}

//go:linkname between github.com/sandgate-dev/sandgate/csiagent/attach.between
var between func()

// deadly dies at a step.
type deadly struct {
	step   string
	client mount.Process // the last one
	*attach.Namespace
	source
	*probe.Prober
}

// source is a driver of clients.
type source interface {
	node.Driver
	node.Explainer
	node.Renewer
	node.Sweeper
}

// memories is a driver of ephemeral volumes.
type memories struct {
	node.Driver
	deadly *deadly
}

func (m memories) Mount(ctx context.Context, v mount.Mount, dir string) (mount.Source, error) {
	src, err := m.Driver.Mount(ctx, v, dir)
	m.deadly.die("mounted")
	return src, err
}

// opening is deadly with clients in another container.
type opening struct {
	*deadly
	opener node.Opener
}

func (o opening) Open(ctx context.Context, p mount.Process) (*os.File, error) {
	return o.opener.Open(ctx, p)
}

func (d *deadly) die(steps ...string) {
	if slices.Contains(steps, d.step) {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
}

func (d *deadly) Mount(ctx context.Context, m mount.Mount, dir string) (mount.Source, error) {
	src, err := d.source.Mount(ctx, m, dir)
	d.client = src.Client
	d.die("mounted")
	return src, err
}

func (d *deadly) Unmount(ctx context.Context, dir string, p mount.Process) error {
	err := d.source.Unmount(ctx, dir, p)
	d.die("ended", "drained")
	return err
}

func (d *deadly) Read(ctx context.Context, dir *os.File, fstype string) error {
	err := d.Prober.Read(ctx, dir, fstype)
	d.die("probed")
	return err
}

func (d *deadly) Sync(ctx context.Context, dir *os.File) error {
	err := d.Prober.Sync(ctx, dir)
	d.die("synced")
	return err
}

func (d *deadly) Seal(ctx context.Context, dir *os.File) error {
	d.die("seal")
	return d.Prober.Seal(ctx, dir)
}

func (d *deadly) Open(ctx context.Context, target string, id uint64) (*os.File, error) {
	f, err := d.Namespace.Open(ctx, target, id)
	d.die("opened")
	return f, err
}

func (d *deadly) Attach(ctx context.Context, t *attach.Tree, target string, o attach.AttachOptions) (uint64, error) {
	d.die("attach")
	id, err := d.Namespace.Attach(ctx, t, target, o)
	d.die("attached")
	return id, err
}

func (d *deadly) Replace(ctx context.Context, t *attach.Tree, target string, old uint64, o attach.AttachOptions) (uint64, error) {
	d.die("replace")
	id, err := d.Namespace.Replace(ctx, t, target, old, o)
	d.die("replaced")
	return id, err
}

func (d *deadly) Clone(ctx context.Context, target string, id uint64, readOnly bool) (*attach.Tree, error) {
	d.die("clone")
	t, err := d.Namespace.Clone(ctx, target, id, readOnly)
	d.die("cloned")
	return t, err
}

func (d *deadly) Detach(ctx context.Context, target string, id uint64, lazy bool) error {
	d.die("detach")
	err := d.Namespace.Detach(ctx, target, id, lazy)
	d.die("detached")
	return err
}
