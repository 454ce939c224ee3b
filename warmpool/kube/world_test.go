package kube_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/injector/envd"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/kube"
	"github.com/sandgate-dev/sandgate/warmpool/kube/keyring"
	"github.com/sandgate-dev/sandgate/warmpool/template"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest/apiserver"
)

func TestMain(m *testing.M) { os.Exit(apiserver.Main(m)) }

// world is a namespace with a pool, whose controller and kubelet are the test: it makes stock ready, with a real daemon at an
// address of its own, and lets deleted sandboxes go.
type world struct {
	t      *testing.T
	rest   *rest.Config
	client client.WithWatch
	ns     string
	keys   keyring.Keys
	agents *agents
	log    *lines

	refill  atomic.Bool                                     // stock that was claimed is replaced
	idle    atomic.Bool                                     // nothing is made ready
	outcome atomic.Pointer[func(*v1alpha1.Sandbox)]         // changes the status that a sandbox gets
	handler atomic.Pointer[func(http.Handler) http.Handler] // wraps daemons made from now on

	served func(sb *v1alpha1.Sandbox, ip string) // called for each new pod; set before there are any
	freeze func()                                // stops the informer of a frozen replica

	mu      sync.Mutex
	daemons map[types.UID]*daemon
	known   map[types.UID]*v1alpha1.Sandbox
	sets    map[types.UID]*v1alpha1.SandboxSet
	ready   int // sandboxes that were made ready in all
}

type daemon struct {
	ip     string
	server *http.Server
	envd   *envd.Server
}

var addresses atomic.Uint32

// address is one of this machine that no other test uses.
func address() string {
	n := addresses.Add(1)
	return fmt.Sprintf("127.%d.%d.%d", 10+os.Getpid()%200, n/250, n%250+1)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	cfg := apiserver.Start(t)
	w := &world{
		t: t, rest: cfg, client: apiserver.Client(t, cfg), keys: keyring.Generate(), agents: newAgents(), log: &lines{},
		daemons: map[types.UID]*daemon{}, known: map[types.UID]*v1alpha1.Sandbox{}, sets: map[types.UID]*v1alpha1.SandboxSet{},
	}
	w.ns = apiserver.Namespace(t, w.client)
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	events, err := w.client.Watch(ctx, &v1alpha1.SandboxList{}, client.InNamespace(w.ns))
	require.NoError(t, err)
	work.Go(func() {
		for e := range events.ResultChan() {
			if sb, ok := e.Object.(*v1alpha1.Sandbox); ok {
				w.reconcile(ctx, e.Type, sb)
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		events.Stop()
		work.Wait()
		for _, d := range w.daemons {
			d.close()
		}
	})
	return w
}

func (d *daemon) close() {
	_ = d.server.Close()
	done, cancel := context.WithCancel(context.Background())
	cancel()
	d.envd.Close(done)
}

// reconcile is controller and kubelet.
func (w *world) reconcile(ctx context.Context, kind watch.EventType, sb *v1alpha1.Sandbox) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if kind == watch.Deleted {
		delete(w.known, sb.UID)
		if d := w.daemons[sb.UID]; d != nil {
			d.close()
			delete(w.daemons, sb.UID)
		}
	} else {
		w.known[sb.UID] = sb
	}
	switch {
	case kind == watch.Deleted:
	case sb.DeletionTimestamp != nil:
		if len(sb.Finalizers) > 0 {
			_ = w.client.Patch(ctx, sb.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))
		}
	case sb.Status.Phase == "" && !w.idle.Load():
		w.makeReady(ctx, sb)
	}
	if w.refill.Load() {
		for _, set := range w.sets {
			w.fill(ctx, set)
		}
	}
}

// fill makes what a set lacks.
func (w *world) fill(ctx context.Context, set *v1alpha1.SandboxSet) {
	have := 0
	for _, sb := range w.known {
		if ref := metav1.GetControllerOf(sb); ref != nil && ref.UID == set.UID && sb.DeletionTimestamp == nil {
			have++
		}
	}
	for ; have < int(set.Spec.Replicas); have++ {
		sb := stockOf(set)
		if err := w.client.Create(ctx, sb); err != nil {
			return
		}
		w.known[sb.UID] = sb
	}
}

func stockOf(set *v1alpha1.SandboxSet) *v1alpha1.Sandbox {
	id := warmpool.NewID()
	return &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: set.Namespace, Name: set.Name + "-" + string(id[1:11]), Finalizers: []string{v1alpha1.FinalizerMounts},
			Labels: map[string]string{v1alpha1.LabelSandboxID: string(id), v1alpha1.LabelPool: set.Name},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: "SandboxSet", Name: set.Name, UID: set.UID, Controller: ptr.To(true),
			}},
		},
		Spec: v1alpha1.SandboxSpec{
			Runtimes: set.Spec.Runtimes, Template: set.Spec.Template.DeepCopy(), Volumes: set.Spec.Volumes, Mounts: template.Asked(set.Spec.Volumes, false),
		},
	}
}

// makeReady gives a sandbox its daemon and its status. Called with the lock held.
func (w *world) makeReady(ctx context.Context, sb *v1alpha1.Sandbox) {
	d := w.daemons[sb.UID]
	if d == nil {
		d = w.serve(sb)
		w.daemons[sb.UID] = d
		if w.served != nil {
			w.served(sb, d.ip)
		}
	}
	w.ready++
	w.setStatus(ctx, sb, func(s *v1alpha1.Sandbox) {
		s.Status.Phase, s.Status.SandboxIP = v1alpha1.PhaseRunning, d.ip
		s.Status.PodInfo = v1alpha1.PodInfo{PodIP: d.ip, PodUID: "pod-" + string(sb.UID)}
		s.Status.Conditions = []metav1.Condition{{
			Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Ready", LastTransitionTime: metav1.Now(),
		}}
		for _, m := range s.Spec.Mounts {
			if s.Spec.Claim == nil {
				s.Status.Mounts = append(s.Status.Mounts, v1alpha1.MountStatus{ID: m.ID, Path: m.Path, VolumeHandle: "pool/" + m.Volume, Phase: "Mounted"})
			}
		}
		if change := w.outcome.Load(); change != nil {
			(*change)(s)
		}
	})
}

func (w *world) setStatus(ctx context.Context, sb *v1alpha1.Sandbox, change func(*v1alpha1.Sandbox)) {
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		var latest v1alpha1.Sandbox
		if err := w.client.Get(ctx, client.ObjectKeyFromObject(sb), &latest); err != nil {
			return err
		}
		change(&latest)
		return w.client.Status().Update(ctx, &latest)
	})
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		w.t.Errorf("status of %s: %v", sb.Name, err)
	}
}

func (w *world) serve(sb *v1alpha1.Sandbox) *daemon {
	key, err := w.keys.InitKey()
	if err != nil {
		panic(err)
	}
	server, err := envd.New(envd.Config{InitKey: key, SandboxID: sb.Labels[v1alpha1.LabelSandboxID]})
	if err != nil {
		panic(err)
	}
	d := &daemon{ip: address(), envd: server}
	l, err := net.Listen("tcp", net.JoinHostPort(d.ip, strconv.Itoa(v1alpha1.EnvdPort)))
	if err != nil {
		panic(err)
	}
	var h http.Handler = server
	if wrap := w.handler.Load(); wrap != nil {
		h = (*wrap)(h)
	}
	d.server = &http.Server{Handler: h, ReadHeaderTimeout: time.Second}
	go func() { _ = d.server.Serve(l) }() // until close
	return d
}

// set makes a pool with its stock.
func (w *world) set(name string, replicas int, change ...func(*v1alpha1.SandboxSet)) *v1alpha1.SandboxSet {
	w.t.Helper()
	set := &v1alpha1.SandboxSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name, Annotations: map[string]string{v1alpha1.AnnotationAliases: name + "-alias"}},
		Spec: v1alpha1.SandboxSetSpec{
			Replicas: int32(replicas), Runtimes: []v1alpha1.Runtime{{Name: v1alpha1.RuntimeCSI}, {Name: v1alpha1.RuntimeAgent}},
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{
				Name: "sandbox", Image: "none", Env: []corev1.EnvVar{{Name: "FROM_TEMPLATE", Value: "yes"}},
			}}}},
		},
	}
	for _, c := range change {
		c(set)
	}
	require.NoError(w.t, w.client.Create(w.t.Context(), set))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sets[set.UID] = set
	w.fill(w.t.Context(), set)
	return set
}

// replica is a gateway's backend. It is ready when it knows what the API server knows now.
func (w *world) replica(change ...func(*kube.Config)) *kube.Backend {
	w.t.Helper()
	c, err := cache.New(w.rest, cache.Options{Scheme: apiserver.Scheme(), DefaultNamespaces: map[string]cache.Config{w.ns: {}}})
	require.NoError(w.t, err)
	fitter, err := kube.NewFitter(kube.FitterConfig{Keys: w.keys, Agents: w.agents})
	require.NoError(w.t, err)
	cfg := kube.Config{
		Client: w.client, Cache: c, Namespaces: []string{w.ns}, ReleaseNamespace: w.ns, Keys: w.keys, Fitter: fitter, EnvdVersion: envd.Version,
		Log: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range change {
		f(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b, err := kube.New(ctx, cfg)
	require.NoError(w.t, err)
	var work sync.WaitGroup
	work.Go(func() { _ = c.Start(ctx) })
	work.Go(func() { _ = b.Run(ctx) })
	w.t.Cleanup(func() {
		cancel()
		work.Wait()
	})
	require.Eventually(w.t, func() bool { return b.Ready() == nil }, 30*time.Second, 5*time.Millisecond)
	return b
}

// stocked waits until a replica sees so many ready sandboxes of a template.
func (w *world) stocked(b *kube.Backend, name string, n int) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		tpl, err := b.Template(w.t.Context(), name)
		return err == nil && tpl.Ready == n
	}, 30*time.Second, 5*time.Millisecond)
}

// objects are the Sandboxes that the API server has now.
func (w *world) objects() []v1alpha1.Sandbox {
	w.t.Helper()
	var list v1alpha1.SandboxList
	require.NoError(w.t, w.client.List(context.Background(), &list, client.InNamespace(w.ns)))
	return list.Items
}

// object is the Sandbox of an ID as the API server has it.
func (w *world) object(id warmpool.ID) *v1alpha1.Sandbox {
	w.t.Helper()
	for _, sb := range w.objects() {
		if sb.Labels[v1alpha1.LabelSandboxID] == string(id) {
			return &sb
		}
	}
	return nil
}

// daemon is the one of a sandbox.
func (w *world) daemon(id warmpool.ID) *daemon {
	w.t.Helper()
	sb := w.object(id)
	require.NotNil(w.t, sb)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.daemons[sb.UID]
}

func order(template string) warmpool.Claim {
	return warmpool.Claim{Template: template, Principal: warmpool.Principal{Team: "red", Key: "k1"}, Timeout: 5 * time.Minute}
}

// create claims and starts a sandbox.
func create(ctx context.Context, b *kube.Backend, c warmpool.Claim) (warmpool.Sandbox, error) {
	s, err := b.Claim(ctx, c)
	if err != nil {
		return s, err
	}
	return b.Start(ctx, s.ID, warmpool.Start{Env: c.Env})
}

// agents are fakes that keep what was published.
type agents struct {
	mu        sync.Mutex
	published map[string][]mount.Mount // by UID
	onPublish func(ctx context.Context, uid string, m mount.Mount) error
	// onUnpublish is called for what is published
	onUnpublish func(ctx context.Context, target string, force bool) error
}

func newAgents() *agents { return &agents{published: map[string][]mount.Mount{}} }

func (a *agents) Agent(uid, _ string) kube.Agent       { return &agent{a, uid} }
func (a *agents) Warm(context.Context, string, string) {}
func (a *agents) Drop(string)                          {}

func (a *agents) of(uid types.UID) []mount.Mount {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.published[string(uid)]
}

type agent struct {
	all *agents
	uid string
}

func (a *agent) Publish(ctx context.Context, m mount.Mount) error {
	a.all.mu.Lock()
	hook := a.all.onPublish
	a.all.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, a.uid, m); err != nil {
			return err
		}
	}
	a.all.mu.Lock()
	defer a.all.mu.Unlock()
	for _, there := range a.all.published[a.uid] {
		switch {
		case there.Target != m.Target || there.Container != m.Container:
		case there.VolumeHandle != m.VolumeHandle:
			return fmt.Errorf("%w: another volume is mounted there", node.ErrConflict)
		default: // the same again
			return nil
		}
	}
	a.all.published[a.uid] = append(a.all.published[a.uid], m)
	return nil
}

func (a *agent) Unpublish(ctx context.Context, id node.Identity) error {
	return a.take(ctx, id, true)
}

func (a *agent) UnpublishIdle(ctx context.Context, id node.Identity) error {
	return a.take(ctx, id, false)
}

func (a *agent) take(ctx context.Context, id node.Identity, force bool) error {
	a.all.mu.Lock()
	defer a.all.mu.Unlock()
	is := func(m mount.Mount) bool {
		return node.Identity{VolumeHandle: m.VolumeHandle, Container: m.Container, Target: m.Target} == id
	}
	if hook := a.all.onUnpublish; hook != nil && slices.ContainsFunc(a.all.published[a.uid], is) {
		if err := hook(ctx, id.Target, force); err != nil {
			return err
		}
	}
	a.all.published[a.uid] = slices.DeleteFunc(slices.Clone(a.all.published[a.uid]), is)
	return nil
}

func (*agent) Health(context.Context, node.Identity) (node.Health, error) {
	return node.Health{Verdict: node.VerdictLive}, nil
}

// lines is a log that tests can read.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.buf.String(), text)
}

// meta is an object of the world's namespace.
func (w *world) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: w.ns, Name: name}
}

// lasts makes sure that end is after a moment between since and now, but for whole seconds and the little that a start may take.
func lasts(t *testing.T, since time.Time, after time.Duration, end time.Time, msg ...any) {
	t.Helper()
	const rounded = 2 * time.Second
	require.False(t, end.Before(since.Add(after-rounded)), msg...)
	require.False(t, end.After(time.Now().Add(after+rounded)), msg...)
}
