// Package controller_test runs the reconcilers against a real API server, with kubelets and agents that the tests play.
package controller_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/config"
	crlog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/go-logr/logr"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/controller/injection"
	"github.com/sandgate-dev/sandgate/warmpool/controller/sandbox"
	"github.com/sandgate-dev/sandgate/warmpool/controller/sandboxset"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest/apiserver"
)

func TestMain(m *testing.M) { os.Exit(apiserver.Main(m)) }

// world is a namespace with its controller. The test is its kubelet, its garbage collector and its gateway.
type world struct {
	t         *testing.T
	rest      *rest.Config
	client    client.WithWatch
	ns        string
	injection *injection.Current
	fitter    *fitter
	volumes   *volumes
	log       *lines

	// play gives a new pod its status; nil leaves it as it is.
	play atomic.Pointer[func(*corev1.Pod) *corev1.PodStatus]
	// stuck pods do not end.
	stuck atomic.Bool
	// between comes between the controller and the API server.
	between atomic.Pointer[interceptor.Funcs]
	times   sandbox.Times

	stop func() // ends the controller

	pods struct {
		sync.Mutex
		made map[string]int // by name, how often
	}
}

// lines is a log that can be read.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// runtimes is an injection configuration.
var runtimes = map[string]string{
	"csi":           `{"csiSidecar": [{"name": "agent", "image": "agent:1", "args": ["${SANDBOX_ID}"]}], "volume": [{"name": "sandgate-identity", "secret": {"secretName": "${AGENT_SECRET}"}}]}`,
	"agent-runtime": `{"initContainers": [{"name": "install", "image": "envd:1", "args": ["${INIT_KEY}"]}]}`,
}

func newWorld(t *testing.T, change ...func(*world)) *world {
	t.Helper()
	cfg := apiserver.Start(t)
	w := &world{
		t: t, rest: cfg, client: apiserver.Client(t, cfg), injection: &injection.Current{}, fitter: newFitter(), volumes: newVolumes(), log: &lines{},
		times: sandbox.Times{
			Settle: 100 * time.Millisecond, Create: 2 * time.Second, Look: 300 * time.Millisecond, Init: time.Minute,
			Detach: time.Second, Linger: time.Second,
		},
	}
	w.pods.made = map[string]int{}
	w.ns = apiserver.Namespace(t, w.client)
	require.NoError(t, w.injection.Set(runtimes))
	for _, f := range change {
		f(w)
	}
	w.start(w.kubelet)
	w.control()
	return w
}

// start runs something for as long as the test lasts.
func (w *world) start(f func(ctx context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); <-done }) }
	w.t.Cleanup(stop)
	return stop
}

// control runs a controller, until the test ends or w.stop is called.
func (w *world) control() {
	w.t.Helper()
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	crlog.SetLogger(logr.FromSlogHandler(slog.DiscardHandler))
	ours, err := labels.NewRequirement(v1alpha1.LabelSandboxID, selection.Exists, nil)
	require.NoError(w.t, err)
	pools := map[string]cache.Config{w.ns: {}}
	mgr, err := ctrl.NewManager(w.rest, ctrl.Options{
		Scheme: apiserver.Scheme(), Logger: logr.FromSlogHandler(log.Handler()),
		Cache: cache.Options{ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.Sandbox{}: {Namespaces: pools}, &v1alpha1.SandboxSet{}: {Namespaces: pools},
			&corev1.Pod{}: {Namespaces: pools, Label: labels.NewSelector().Add(*ours)},
		}},
		NewClient: func(cfg *rest.Config, o client.Options) (client.Client, error) {
			c, err := client.NewWithWatch(cfg, o)
			if err != nil {
				return nil, err
			}
			return w.intercepted(c), nil
		},
		Metrics: server.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: ptr.To(true)},
		GracefulShutdownTimeout: ptr.To(5 * time.Second),
	})
	require.NoError(w.t, err)
	authority, err := channel.NewAuthority(time.Now())
	require.NoError(w.t, err)
	recorder := mgr.GetEventRecorder("test")
	sets, err := sandboxset.New(sandboxset.Config{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Injection: w.injection, Events: recorder, Pace: 50 * time.Millisecond, Log: log,
	})
	require.NoError(w.t, err)
	policy := mount.DefaultPolicy()
	sandboxes, err := sandbox.New(sandbox.Config{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Injection: w.injection, Fitter: w.fitter, Authority: authority, InitKey: "aW5pdA==",
		Volumes: w.volumes, Policy: policy, Events: recorder, Times: w.times, Log: log,
	})
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	require.NoError(w.t, sets.Setup(ctx, mgr))
	require.NoError(w.t, sandboxes.Setup(mgr))
	w.stop = w.start(func(run context.Context) {
		defer cancel()
		if err := mgr.Start(run); err != nil && run.Err() == nil {
			panic(err)
		}
	})
	require.True(w.t, mgr.GetCache().WaitForCacheSync(w.t.Context()))
}

// intercepted asks w.between at each call.
func (w *world) intercepted(c client.WithWatch) client.Client {
	return interceptor.NewClient(c, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if f := w.between.Load(); f != nil && f.Get != nil {
				return f.Get(ctx, c, key, o, opts...)
			}
			return c.Get(ctx, key, o, opts...)
		},
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if f := w.between.Load(); f != nil && f.Create != nil {
				return f.Create(ctx, c, o, opts...)
			}
			return c.Create(ctx, o, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			if f := w.between.Load(); f != nil && f.Delete != nil {
				return f.Delete(ctx, c, o, opts...)
			}
			return c.Delete(ctx, o, opts...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, name string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			if f := w.between.Load(); f != nil && f.SubResourcePatch != nil {
				return f.SubResourcePatch(ctx, c, name, o, p, opts...)
			}
			return c.SubResource(name).Patch(ctx, o, p, opts...)
		},
	})
}

// kubelet binds pods, runs them as play says, and ends them.
func (w *world) kubelet(ctx context.Context) {
	events, err := w.client.Watch(ctx, &corev1.PodList{}, client.InNamespace(w.ns))
	if err != nil {
		panic(err)
	}
	defer events.Stop()
	for e := range events.ResultChan() {
		pod, ok := e.Object.(*corev1.Pod)
		if !ok {
			continue
		}
		switch {
		case e.Type == "DELETED":
		case pod.DeletionTimestamp != nil:
			if !w.stuck.Load() {
				_ = w.client.Delete(ctx, pod, client.GracePeriodSeconds(0))
			}
		case e.Type == "ADDED":
			w.pods.Lock()
			w.pods.made[pod.Name]++
			w.pods.Unlock()
			w.run(ctx, pod)
		}
	}
}

func (w *world) run(ctx context.Context, pod *corev1.Pod) {
	play := running
	if f := w.play.Load(); f != nil {
		play = *f
	}
	status := play(pod)
	if status == nil {
		return
	}
	if status.Phase != corev1.PodPending || status.PodIP != "" {
		_ = w.client.SubResource("binding").Create(ctx, pod, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace}, Target: corev1.ObjectReference{Kind: "Node", Name: "node-1"},
		})
	}
	w.status(ctx, pod.Name, func(s *corev1.PodStatus) { *s = *status })
}

// status changes a pod's status.
func (w *world) status(ctx context.Context, name string, change func(*corev1.PodStatus)) {
	var pod corev1.Pod
	if err := w.client.Get(ctx, types.NamespacedName{Namespace: w.ns, Name: name}, &pod); err != nil {
		return
	}
	before := pod.DeepCopy()
	change(&pod.Status)
	_ = w.client.Status().Patch(ctx, &pod, client.MergeFrom(before))
}

var addresses atomic.Uint32

// running is the status of a pod that is ready.
func running(pod *corev1.Pod) *corev1.PodStatus {
	n := addresses.Add(1)
	s := &corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.1.%d.%d", n/250, n%250+1),
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: corev1.PodScheduled, Status: corev1.ConditionTrue}},
	}
	s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	for _, c := range pod.Spec.InitContainers {
		s.InitContainerStatuses = append(s.InitContainerStatuses, runs(c.Name, n))
	}
	for _, c := range pod.Spec.Containers {
		s.ContainerStatuses = append(s.ContainerStatuses, runs(c.Name, n))
	}
	return s
}

func runs(name string, n uint32) corev1.ContainerStatus {
	return corev1.ContainerStatus{
		Name: name, Ready: true, Started: ptr.To(true), ContainerID: fmt.Sprintf("test://%s-%d", name, n), Image: "i", ImageID: "i",
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}},
	}
}

func (w *world) plays(f func(*corev1.Pod) *corev1.PodStatus) { w.play.Store(&f) }

// set makes a SandboxSet.
func (w *world) set(name string, replicas int32, change ...func(*v1alpha1.SandboxSet)) *v1alpha1.SandboxSet {
	w.t.Helper()
	s := &v1alpha1.SandboxSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name},
		Spec: v1alpha1.SandboxSetSpec{
			Replicas: replicas, Runtimes: []v1alpha1.Runtime{{Name: "csi"}, {Name: "agent-runtime"}}, Template: template("image:1"),
		},
	}
	for _, f := range change {
		f(s)
	}
	require.NoError(w.t, w.client.Create(w.t.Context(), s))
	return s
}

func template(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "sandbox", Image: image}}, TerminationGracePeriodSeconds: ptr.To(int64(1)),
	}}
}

// edit changes an object, again when somebody else has changed it meanwhile.
func edit[T client.Object](w *world, o T, change func(T)) T {
	w.t.Helper()
	require.EventuallyWithT(w.t, func(c *assertT) {
		require.NoError(c, w.client.Get(w.t.Context(), client.ObjectKeyFromObject(o), o))
		change(o)
		require.NoError(c, w.client.Update(w.t.Context(), o))
	}, 10*time.Second, 20*time.Millisecond)
	return o
}

// sandboxes are those of a pool; empty for all.
func (w *world) sandboxes(pool string) []v1alpha1.Sandbox {
	w.t.Helper()
	var list v1alpha1.SandboxList
	opts := []client.ListOption{client.InNamespace(w.ns)}
	if pool != "" {
		opts = append(opts, client.MatchingLabels{v1alpha1.LabelPool: pool})
	}
	require.NoError(w.t, w.client.List(w.t.Context(), &list, opts...))
	return list.Items
}

func (w *world) get(sb *v1alpha1.Sandbox) *v1alpha1.Sandbox {
	w.t.Helper()
	out := &v1alpha1.Sandbox{}
	require.NoError(w.t, w.client.Get(w.t.Context(), client.ObjectKeyFromObject(sb), out))
	return out
}

func (w *world) podOf(sb *v1alpha1.Sandbox) *corev1.Pod {
	w.t.Helper()
	out := &corev1.Pod{}
	require.NoError(w.t, w.client.Get(w.t.Context(), client.ObjectKeyFromObject(sb), out))
	return out
}

// eventually waits for a pass of f.
func (w *world) eventually(f func(c *assertT), msg ...any) {
	w.t.Helper()
	require.EventuallyWithT(w.t, f, 30*time.Second, 50*time.Millisecond, msg...)
}

// always makes sure that f holds for a while.
func (w *world) always(d time.Duration, f func() bool, msg ...any) {
	w.t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-ticker.C {
		require.True(w.t, f(), msg...)
	}
}

// full waits until a set is full.
func (w *world) full(s *v1alpha1.SandboxSet) *v1alpha1.SandboxSet {
	w.t.Helper()
	w.eventually(func(c *assertT) {
		require.NoError(c, w.client.Get(w.t.Context(), client.ObjectKeyFromObject(s), s))
		require.Equal(c, s.Generation, s.Status.ObservedGeneration)
		require.Equal(c, s.Spec.Replicas, s.Status.AvailableReplicas)
		require.Equal(c, s.Spec.Replicas, s.Status.UpdatedReplicas)
		require.Equal(c, "True", conditionOf(s, v1alpha1.ConditionFilled), "%+v", s.Status.Conditions)
	})
	return s
}

func conditionOf(s *v1alpha1.SandboxSet, kind string) string {
	for _, c := range s.Status.Conditions {
		if c.Type == kind {
			return string(c.Status)
		}
	}
	return ""
}

func condition(s *v1alpha1.SandboxSet, kind string) metav1.Condition {
	for _, c := range s.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return metav1.Condition{}
}

// claim does what the gateway does.
func (w *world) claim(sb *v1alpha1.Sandbox, mounts ...v1alpha1.Mount) (*v1alpha1.Sandbox, error) {
	before := sb.DeepCopy()
	after := sb.DeepCopy()
	after.OwnerReferences = nil
	after.Labels[v1alpha1.LabelClaimed] = "true"
	after.Spec.Claim = &v1alpha1.Claim{Principal: v1alpha1.Principal{Team: "red"}, Nonce: "n", Time: metav1.NowMicro(), Timeout: 600}
	for _, m := range mounts {
		after.Spec.Mounts = append(after.Spec.Mounts, asked(m))
	}
	after.Spec.ShutdownTime = &metav1.Time{Time: time.Now().Add(10 * time.Minute)}
	err := w.client.Patch(w.t.Context(), after, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	return after, err
}

// events are the reasons of the events about an object.
func (w *world) events(name string) string {
	w.t.Helper()
	var list corev1.EventList
	require.NoError(w.t, w.client.List(w.t.Context(), &list, client.InNamespace(w.ns)))
	var out []string
	for _, e := range list.Items {
		if e.InvolvedObject.Name == name {
			out = append(out, e.Reason+" "+e.Message)
		}
	}
	return strings.Join(out, "\n")
}
