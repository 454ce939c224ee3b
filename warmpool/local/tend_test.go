package local

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest"
)

// shelf is a Reader of one volume with a Secret.
type shelf struct {
	warmpooltest.Volumes

	mu    sync.Mutex
	key   string
	gone  bool
	reads int
}

func aShelf() *shelf {
	pv := warmpooltest.TmpfsVolume("closed")
	pv.Spec.CSI.NodePublishSecretRef = &corev1.SecretReference{Namespace: v1alpha1.SystemNamespace, Name: "s"}
	return &shelf{Volumes: warmpooltest.Volumes{"closed": pv}, key: "1"}
}

func (s *shelf) PersistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if s.gone {
		name = "gone"
	}
	return s.Volumes.PersistentVolume(ctx, name)
}

func (s *shelf) Secret(context.Context, string, string) (*corev1.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &corev1.Secret{StringData: map[string]string{"key": s.key}}, nil
}

func (s *shelf) do(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *shelf) looks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

// refreshes are what boxes are given, and whether they take it.
type refreshes struct {
	mu    sync.Mutex
	given []string // path and key
	err   error
}

func (r *refreshes) take(_ context.Context, m mount.Mount) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.given = append(r.given, m.Target+" "+m.Secret["key"])
	return r.err
}

func (r *refreshes) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *refreshes) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.given...)
}

func csiSet() v1alpha1.SandboxSet {
	s := aSet("base", 0)
	s.Spec.Runtimes = []v1alpha1.Runtime{{Name: "csi"}}
	return s
}

// closedAt is the volume as a create request has it resolved.
func (w *world) closedAt(s *shelf, target string) mount.Mount {
	w.t.Helper()
	tpl, err := w.Template(w.t.Context(), "base")
	require.NoError(w.t, err)
	spec := mount.Spec{Volume: "closed", Target: target}
	spec.ID = spec.DerivedID()
	ms, err := volume.Resolve(w.t.Context(), s, volume.Request{
		Principal: warmpool.Principal{Team: "a"}, Template: tpl, Specs: []mount.Spec{spec}, Drivers: []string{mount.DriverTmpfs},
	})
	require.NoError(w.t, err)
	return ms[0]
}

// served is what a box knows of mounts that clients serve.
func served(v node.Verdict, message string, ms ...mount.Mount) map[string]node.Live {
	out := map[string]node.Live{}
	for _, m := range ms {
		l := node.Live{Spec: m.Spec, Driver: m.Driver, Served: true, Phase: node.Failed, Health: node.Health{Verdict: v, Message: message}}
		if l.Works() {
			l.Phase = node.Mounted
		}
		out[m.ID] = l
	}
	return out
}

// tended is a sandbox with the volume at /a, mounted by a request.
func tended(t *testing.T) (*fake, *shelf, *refreshes, *world, warmpool.Sandbox, mount.Mount) {
	t.Helper()
	f, volumes, r := newFake(), aShelf(), &refreshes{}
	f.refresh = r.take
	w := begin(t, f, func(p *Pool) { p.Reader = volumes }, csiSet())
	sb := w.take("base")
	m := w.closedAt(volumes, "/a")
	_, _, err := w.Publish(t.Context(), sb.ID, m)
	require.NoError(t, err)
	f.do(func() { f.known = served(node.VerdictLive, "", m) })
	_, err = w.SetDeadline(t.Context(), sb.ID, warmpool.Deadline{At: w.clock.Now().Add(1000 * time.Hour)}) // the clock runs as fast as it is looked at
	require.NoError(t, err)
	return f, volumes, r, w, sb, m
}

// rounds lets some looks at what mounts lack pass.
func (w *world) rounds(s *shelf) {
	w.t.Helper()
	from := s.looks()
	w.passes("looks", tendPause, func() bool { return s.looks() >= from+3 })
}

func TestAMountIsGivenWhatItsSecretHasNow(t *testing.T) {
	_, volumes, r, w, sb, _ := tended(t)
	w.rounds(volumes)
	require.Empty(t, r.all(), "it has them from the start")

	volumes.do(func() { volumes.key = "2" })
	w.change(csiSet())
	w.until("as soon as the manifests change", func() bool { return len(r.all()) == 1 })
	w.rounds(volumes)
	require.Equal(t, []string{"/a 2"}, r.all())

	r.fail(fmt.Errorf("%w: no", mount.ErrDenied))
	volumes.do(func() { volumes.key = "3" })
	w.passes("again and again", tendPause, func() bool { return len(r.all()) >= 4 })
	got, err := w.Get(t.Context(), sb.ID)
	require.NoError(t, err)
	require.Equal(t, warmpool.MountReady, got.Mounts[0].Phase, "it goes on with what it has")
	r.fail(nil)
	tries := len(r.all())
	w.passes("until it takes it", tendPause, func() bool { return len(r.all()) == tries+1 })
	w.rounds(volumes)
	require.Len(t, r.all(), tries+1)
	require.NotContains(t, r.all()[1:], "/a 2")

	volumes.do(func() { volumes.gone = true })
	w.rounds(volumes)
	require.Len(t, r.all(), tries+1, "what cannot be looked up any more is left alone")
}

func TestASandboxTellsTheVerdictOnEachMount(t *testing.T) {
	f, _, _, w, sb, m := tended(t)
	for _, v := range []node.Verdict{node.VerdictLive, node.VerdictSlow, node.VerdictHung, node.VerdictDead, node.VerdictLive} {
		f.do(func() { f.known = served(v, string(v), m) })
		w.clock.Step(lookAge)
		got, err := w.Get(t.Context(), sb.ID)
		require.NoError(t, err)
		require.Equal(t, warmpool.MountVerdict(v), got.Mounts[0].Verdict)
		require.Equal(t, f.known[m.ID].Works(), got.Mounts[0].Phase == warmpool.MountReady)
		require.Equal(t, string(v), got.Mounts[0].Message)
	}
}

func TestMountsOfAnEarlierProcessAreGivenWhatTheirClientsTake(t *testing.T) {
	f, volumes, r, w, sb, m := tended(t)
	w.stop()
	f.do(func() { f.known = served(node.VerdictDead, "its client has ended", m) })
	volumes.do(func() { volumes.gone = true })
	w = begin(t, f, func(p *Pool) { p.Reader = volumes }, csiSet())
	message := func() string {
		got, err := w.Get(t.Context(), sb.ID)
		require.NoError(t, err)
		require.Equal(t, warmpool.MountFailed, got.Mounts[0].Phase)
		return got.Mounts[0].Message
	}
	w.until("the reason", func() bool {
		return message() == "its client has ended; it cannot be mounted again: no PersistentVolume of that name that you may mount"
	})
	require.Empty(t, r.all())

	r.fail(fmt.Errorf("%w: nobody answers", mount.ErrUnavailable))
	volumes.do(func() { volumes.gone = false })
	w.change(csiSet())
	w.until("what the storage says", func() bool {
		return message() == "its client has ended; volume 'closed' at /a could not be mounted: storage does not answer: nobody answers"
	})
	r.fail(node.ErrConflict)
	w.passes("what has changed", tendPause, func() bool {
		return message() == "its client has ended; its volume is set up otherwise than when it was mounted; unmount it, and mount it again"
	})
	r.fail(nil)
	f.do(func() { f.known = served(node.VerdictLive, "", m) })
	w.passes("it works again", tendPause, func() bool {
		got, err := w.Get(t.Context(), sb.ID)
		return err == nil && got.Mounts[0].Phase == warmpool.MountReady
	})
	tries := len(r.all())
	w.rounds(volumes)
	require.LessOrEqual(t, len(r.all()), tries+1, "once is enough")
	require.Equal(t, "/a 1", r.all()[0])
}

func TestAnEndCallsOffWhatAMountIsBeingGiven(t *testing.T) {
	f, volumes, _, w, sb, m := tended(t)
	begun, over := make(chan struct{}), make(chan struct{})
	f.do(func() {
		f.refresh = func(ctx context.Context, _ mount.Mount) error {
			close(begun)
			<-ctx.Done()
			close(over)
			return ctx.Err()
		}
	})
	volumes.do(func() { volumes.key = "2" })
	w.change(csiSet())
	<-begun
	require.NoError(t, w.Unpublish(t.Context(), sb.ID, m, false), "nobody waits for it")
	require.NoError(t, w.Release(t.Context(), sb.ID))
	<-over
	require.Zero(t, f.left())
}

func TestAMountThatHangsKeepsNoOtherSandboxWaiting(t *testing.T) {
	f, volumes, _, w, first, m := tended(t)
	second := w.take("base")
	other := w.closedAt(volumes, "/b")
	_, _, err := w.Publish(t.Context(), second.ID, other)
	require.NoError(t, err)
	taken := make(chan string, 16)
	f.do(func() {
		f.known = served(node.VerdictLive, "", m, other)
		f.refresh = func(ctx context.Context, m mount.Mount) error {
			if m.Target == "/a" {
				<-ctx.Done()
				return ctx.Err()
			}
			taken <- m.Secret["key"]
			return nil
		}
	})
	for _, key := range []string{"2", "3"} {
		volumes.do(func() { volumes.key = key })
		w.change(csiSet())
		require.Equal(t, key, <-taken)
	}
	require.NoError(t, w.Release(t.Context(), first.ID))
}
