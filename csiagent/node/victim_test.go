package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	_ "unsafe" // for a step inside of attach

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/clients"
	"github.com/sandgate-dev/sandgate/csiagent/driver/oss"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

// stepsOf are the steps of an agent's work, in order; between two of them it can be killed. A volume in use has one more at its end: seal.
var stepsOf = map[string][]string{
	"publish":   {"started", "mounted", "probed", "attach", "attached"},
	"heal":      {"mounted", "probed", "replace", "between", "replaced", "ended"},
	"unpublish": {"opened", "probed", "synced", "detach", "detached", "drained"},
}

func TestAnAgentKilledAtAnyStepLeavesNothingThatAdoptDoesNotFind(t *testing.T) {
	s := newStore(t)
	for doing, steps := range stepsOf {
		for _, step := range steps {
			t.Run(doing+"/"+step, func(t *testing.T) {
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
	var mounts node.Driver = d
	if o, ok := driver.(node.Opener); ok {
		mounts = opening{d, o}
	}
	n, err := node.New(node.Config{
		Dir: dir, Drivers: map[string]node.Driver{mount.DriverOSS: mounts}, Policy: mount.DefaultPolicy(), Probe: d,
		Target: func(context.Context, string) (node.Target, error) { return d, nil },
	})
	if err != nil {
		return 1
	}
	if err := n.Adopt(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if doing == "publish" {
		d.step = step
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

func (d *deadly) Detach(ctx context.Context, target string, id uint64, lazy bool) error {
	d.die("detach")
	err := d.Namespace.Detach(ctx, target, id, lazy)
	d.die("detached")
	return err
}
