package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// fake is a machine in memory. Its records live as long as it does, like a state directory.
type fake struct {
	mu      sync.Mutex
	boxes   map[warmpool.ID]*fakeBox
	records map[warmpool.ID]record
	made    int
	most    int           // made at the same time
	now     int           // being made
	gate    chan struct{} // when set, each Make takes one from it
	fault   error         // of Make
	ends    []warmpool.ID
	endFail error
	uplink  mount.Process
	publish func(ctx context.Context, m mount.Mount) error
	// unpublish is publish's opposite
	unpublish func(ctx context.Context, target string, force bool) error
	init      func(ctx context.Context, token warmpool.Token, env map[string]string) error
	// refresh is a Refresh; known is what every box knows of its mounts
	refresh func(ctx context.Context, m mount.Mount) error
	known   map[string]node.Live
	looks   int // how often mounts were looked at
}

func newFake() *fake {
	return &fake{boxes: map[warmpool.ID]*fakeBox{}, records: map[warmpool.ID]record{}}
}

func (f *fake) Make(ctx context.Context, id warmpool.ID, _ plan) (box, error) {
	f.mu.Lock()
	f.now++
	f.most = max(f.most, f.now)
	gate := f.gate
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.now--
	}()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.made++
	if f.fault != nil {
		return nil, f.fault
	}
	b := &fakeBox{fake: f, id: id, process: mount.Process{PID: f.made, Start: 1}, gone: make(chan struct{})}
	f.boxes[id] = b
	return b, nil
}

func (f *fake) Adopt(_ context.Context, r record) (box, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.boxes[r.ID]
	if b == nil || b.process != r.Process {
		return nil, errors.New("dead")
	}
	return b, nil
}

func (f *fake) Watch(context.Context) {}

func (f *fake) Discard(_ context.Context, id warmpool.ID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(id)
	return nil
}

func (f *fake) remove(id warmpool.ID) {
	f.ends = append(f.ends, id)
	delete(f.boxes, id)
	delete(f.records, id)
}

func (f *fake) Known() (out []warmpool.ID, _ error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.records {
		out = append(out, id)
	}
	return out, nil
}

func (f *fake) Load(id warmpool.ID) (record, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, ok := f.records[id]
	if !ok {
		return record{}, errors.New("no record")
	}
	return r, nil
}

func (f *fake) Save(r record) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.records[r.ID] = r
	return nil
}

func (f *fake) do(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// left is how many sandboxes there are.
func (f *fake) left() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.boxes)
}

type fakeBox struct {
	fake    *fake
	id      warmpool.ID
	process mount.Process
	gone    chan struct{}
	cut     bool
}

func (b *fakeBox) Process() mount.Process { return b.process }
func (b *fakeBox) Uplink() mount.Process  { return b.fake.uplink }
func (b *fakeBox) Gone() <-chan struct{}  { return b.gone }
func (b *fakeBox) Detach()                {}
func (b *fakeBox) Usage() (sample, error) { return sample{cpu: time.Second, memory: 1 << 20}, nil }

func (b *fakeBox) Dial(context.Context, uint16) (net.Conn, error) {
	return nil, errors.New("no network")
}

func (b *fakeBox) Init(ctx context.Context, token warmpool.Token, env map[string]string) (string, error) {
	if b.fake.init != nil {
		return "", b.fake.init(ctx, token, env)
	}
	return "", nil
}

func (b *fakeBox) Isolate(context.Context) error {
	b.cut = true
	return nil
}

func (b *fakeBox) Publish(ctx context.Context, m mount.Mount) error {
	if b.fake.publish != nil {
		return b.fake.publish(ctx, m)
	}
	return nil
}

func (b *fakeBox) Refresh(ctx context.Context, m mount.Mount) error {
	b.fake.mu.Lock()
	refresh := b.fake.refresh
	b.fake.mu.Unlock()
	if refresh != nil {
		return refresh(ctx, m)
	}
	return nil
}

func (b *fakeBox) Look(context.Context) map[string]node.Health {
	b.fake.do(func() { b.fake.looks++ })
	out := map[string]node.Health{}
	for id, m := range b.Known() {
		out[id] = m.Health
	}
	return out
}

func (b *fakeBox) Known() map[string]node.Live {
	b.fake.mu.Lock()
	defer b.fake.mu.Unlock()
	return maps.Clone(b.fake.known)
}

func (b *fakeBox) Unpublish(ctx context.Context, target string, force bool) error {
	if b.fake.unpublish != nil {
		return b.fake.unpublish(ctx, target, force)
	}
	return nil
}

func (b *fakeBox) End(context.Context) error {
	b.fake.mu.Lock()
	defer b.fake.mu.Unlock()
	if b.fake.endFail != nil {
		return b.fake.endFail
	}
	b.fake.remove(b.id)
	return nil
}

// die ends a box as if its first process had.
func (f *fake) die(id warmpool.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.boxes[id].gone)
}

// world is a running Backend on a fake machine.
type world struct {
	*Backend
	t     *testing.T
	fake  *fake
	clock *testclock.FakeClock
	sets  []v1alpha1.SandboxSet
	mu    sync.Mutex
	news  chan struct{}
	stop  func()
}

func aSet(name string, replicas int32) v1alpha1.SandboxSet {
	return v1alpha1.SandboxSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{v1alpha1.AnnotationAliases: name + "-alias, " + name + "-v1"}},
		Spec:       v1alpha1.SandboxSetSpec{Replicas: replicas, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "any"}}}}},
	}
}

func begin(t *testing.T, f *fake, change func(*Pool), sets ...v1alpha1.SandboxSet) *world {
	t.Helper()
	w := &world{t: t, fake: f, clock: testclock.NewFakeClock(time.Now()), sets: sets, news: make(chan struct{}, 1)}
	cfg := Pool{Clock: w.clock, Changed: func() <-chan struct{} { return w.news }, Sets: func() []v1alpha1.SandboxSet {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.sets
	}}
	if change != nil {
		change(&cfg)
	}
	b, err := newBackend(cfg, slog.New(slog.NewTextHandler(io.Discard, nil)), f, []byte("key"), machineSize{2, 1024}, "made", "0.6.0")
	require.NoError(t, err)
	b.drivers = map[string]node.Driver{mount.DriverTmpfs: nil} // known by name
	w.Backend = b
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = b.Run(ctx)
	}()
	var once sync.Once
	w.stop = func() {
		once.Do(func() {
			cancel()
			<-done
		})
	}
	t.Cleanup(w.stop)
	return w
}

func (w *world) change(sets ...v1alpha1.SandboxSet) {
	w.mu.Lock()
	w.sets = sets
	w.mu.Unlock()
	w.news <- struct{}{}
}

// until polls a condition, with the clock standing still.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	require.Eventually(w.t, ok, 30*time.Second, time.Millisecond, what)
}

// passes moves the clock until the condition holds.
func (w *world) passes(what string, step time.Duration, ok func() bool) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		if ok() {
			return true
		}
		w.clock.Step(step)
		return false
	}, 30*time.Second, 2*time.Millisecond, what)
}

func (w *world) ready(n int) {
	w.t.Helper()
	w.until(fmt.Sprintf("%d ready", n), func() bool {
		all, err := w.Templates(w.t.Context())
		if err != nil || len(all) == 0 {
			return false
		}
		sum := 0
		for _, t := range all {
			sum += t.Ready
		}
		return sum == n
	})
}

func claimOf(template string) warmpool.Claim {
	return warmpool.Claim{Template: template, Principal: warmpool.Principal{Team: "a"}, Timeout: 5 * time.Minute, Metadata: map[string]string{"k": "v"}}
}

func (w *world) take(template string) warmpool.Sandbox {
	w.t.Helper()
	s, err := w.Claim(w.t.Context(), claimOf(template))
	require.NoError(w.t, err)
	s, err = w.Start(w.t.Context(), s.ID, warmpool.Start{Env: map[string]string{"A": "b"}})
	require.NoError(w.t, err)
	return s
}

func requireCode(t *testing.T, code warmpool.Code, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, code, warmpool.CodeOf(err), "%v", err)
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}
