package retire_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/controller/retire"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest/apiserver"
)

func TestMain(m *testing.M) { os.Exit(apiserver.Main(m)) }

type world struct {
	t             *testing.T
	c             client.Client
	release, pool string
	set           *v1alpha1.SandboxSet
}

func newWorld(t *testing.T) *world {
	c := apiserver.Client(t, apiserver.Start(t))
	w := &world{t: t, c: c, release: apiserver.Namespace(t, c), pool: apiserver.Namespace(t, c)}
	w.set = &v1alpha1.SandboxSet{ObjectMeta: metav1.ObjectMeta{Namespace: w.pool, Name: "pool"}, Spec: v1alpha1.SandboxSetSpec{Template: *template()}}
	require.NoError(t, c.Create(t.Context(), w.set))
	for _, name := range []string{"gateway", "controller"} {
		labels := map[string]string{"app": name}
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: w.release, Name: name}, Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](2), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: *template(),
		}}
		d.Spec.Template.Labels = labels
		require.NoError(t, c.Create(t.Context(), d))
	}
	return w
}

func template() *corev1.PodTemplateSpec {
	return &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "none"}}}}
}

func (w *world) sandbox(name string, change func(*v1alpha1.Sandbox)) *v1alpha1.Sandbox {
	w.t.Helper()
	sb := &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.pool, Name: name, Finalizers: []string{v1alpha1.FinalizerMounts, "example.com/theirs"}},
		Spec:       v1alpha1.SandboxSpec{Template: template()},
	}
	change(sb)
	require.NoError(w.t, w.c.Create(w.t.Context(), sb))
	return sb
}

func (w *world) run(log *bytes.Buffer) error {
	return retire.Run(w.t.Context(), retire.Config{
		Client: w.c, Namespace: w.release, Gateway: "gateway", Controller: "controller", Pools: []string{w.pool},
		Patience: 500 * time.Millisecond, Log: slog.New(slog.NewTextHandler(log, nil)),
	})
}

func (w *world) replicas(name string) int32 {
	w.t.Helper()
	var d appsv1.Deployment
	require.NoError(w.t, w.c.Get(w.t.Context(), client.ObjectKey{Namespace: w.release, Name: name}, &d))
	return *d.Spec.Replicas
}

func (w *world) now(sb *v1alpha1.Sandbox) *v1alpha1.Sandbox {
	w.t.Helper()
	require.NoError(w.t, w.c.Get(w.t.Context(), client.ObjectKeyFromObject(sb), sb))
	return sb
}

func stock(set *v1alpha1.SandboxSet) func(*v1alpha1.Sandbox) {
	return func(sb *v1alpha1.Sandbox) {
		sb.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, v1alpha1.GroupVersion.WithKind("SandboxSet"))}
	}
}

func claimed(sb *v1alpha1.Sandbox) {
	sb.Spec.Claim = &v1alpha1.Claim{Principal: v1alpha1.Principal{Team: "red"}, Nonce: "n", Time: metav1.NowMicro()}
}

func TestClaimedSandboxesAreKeptAndNothingWaitsForAController(t *testing.T) {
	w := newWorld(t)
	mine := w.sandbox("claimed", claimed)
	bare := w.sandbox("by-kubectl", func(*v1alpha1.Sandbox) {})
	idle := w.sandbox("idle", stock(w.set))
	ending := w.sandbox("ending", claimed)
	require.NoError(t, w.c.Delete(t.Context(), ending))

	var log bytes.Buffer
	require.NoError(t, w.run(&log))
	require.Contains(t, log.String(), "goes on without", "nobody finishes the deletion under way here")
	require.Zero(t, w.replicas("gateway"))
	require.Zero(t, w.replicas("controller"))
	for _, sb := range []*v1alpha1.Sandbox{mine, bare, idle, ending} {
		require.Equal(t, []string{"example.com/theirs"}, w.now(sb).Finalizers, sb.Name)
	}
	require.Nil(t, mine.DeletionTimestamp)
	require.Nil(t, bare.DeletionTimestamp)
	require.NotNil(t, idle.DeletionTimestamp)
	require.NoError(t, w.run(&log), "again")
}

func TestAGatewayThatDoesNotEndIsAnErrorAndNothingIsLetGo(t *testing.T) {
	w := newWorld(t)
	mine := w.sandbox("claimed", claimed)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.release, Name: "gateway-1", Labels: map[string]string{"app": "gateway"}}, Spec: template().Spec}
	require.NoError(t, w.c.Create(t.Context(), pod))
	var d appsv1.Deployment
	require.NoError(t, w.c.Get(t.Context(), client.ObjectKey{Namespace: w.release, Name: "gateway"}, &d))
	require.ErrorContains(t, w.run(new(bytes.Buffer)), "pods of gateway")
	require.Contains(t, w.now(mine).Finalizers, v1alpha1.FinalizerMounts)
	require.EqualValues(t, 2, w.replicas("controller"))

	require.NoError(t, w.c.Delete(t.Context(), pod, client.GracePeriodSeconds(0)))
	require.NoError(t, w.run(new(bytes.Buffer)))
	require.NotContains(t, w.now(mine).Finalizers, v1alpha1.FinalizerMounts)
}

func TestAnAPIServerThatIsAwayIsAnError(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := retire.Run(ctx, retire.Config{Client: w.c, Namespace: w.release, Gateway: "gateway", Controller: "controller", Log: slog.New(slog.DiscardHandler)})
	require.ErrorIs(t, err, context.Canceled)
}
