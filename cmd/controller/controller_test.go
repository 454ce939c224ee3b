package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/controller/egress"
	"github.com/sandgate-dev/sandgate/warmpool/controller/injection"
	"github.com/sandgate-dev/sandgate/warmpool/kube/keyring"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest/apiserver"
)

// log is what the tests' processes and Kubernetes' libraries have said: those have one logger for all.
var log = &lines{}

func TestMain(m *testing.M) {
	speak(slog.New(slog.NewTextHandler(log, nil)))
	os.Exit(apiserver.Main(m))
}

type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// rights are all that the controller needs, by namespace: of pools, of the system and of the release.
func rights(pool, release string) map[string][]rbacv1.PolicyRule {
	rule := func(group, resource string, verbs ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs}
	}
	named := func(r rbacv1.PolicyRule, names ...string) rbacv1.PolicyRule {
		r.ResourceNames = names
		return r
	}
	return map[string][]rbacv1.PolicyRule{
		pool: {
			rule(v1alpha1.Group, "sandboxes", "get", "list", "watch", "create", "patch", "delete"),
			rule(v1alpha1.Group, "sandboxes/status", "patch"),
			rule(v1alpha1.Group, "sandboxes/finalizers", "update"),
			rule(v1alpha1.Group, "sandboxsets", "get", "list", "watch"),
			rule(v1alpha1.Group, "sandboxsets/status", "patch"),
			rule(v1alpha1.Group, "sandboxsets/finalizers", "update"),
			rule("", "pods", "get", "list", "watch", "create", "patch", "delete"),
			rule("", "persistentvolumeclaims", "get"),
			rule("", "secrets", "create", "update"),
			rule("networking.k8s.io", "networkpolicies", "list", "watch", "create", "update", "delete"),
			rule("events.k8s.io", "events", "create", "patch"),
		},
		v1alpha1.SystemNamespace: {
			rule("", "secrets", "get"),
			named(rule("", "configmaps", "get", "list", "watch"), v1alpha1.InjectionConfigMap),
			rule("", "configmaps", "create"),
			named(rule("", "configmaps", "get", "update"), injection.KeptConfigMap),
			rule("events.k8s.io", "events", "create", "patch"),
		},
		release: {
			rule("", "secrets", "create"),
			named(rule("", "secrets", "get", "update"), keyring.SecretKeys, keyring.SecretAuthority, keyring.SecretGatewayClient),
			named(rule("", "secrets", "list", "watch", "update"), hookSecret),
			rule("", "configmaps", "list", "delete"),
			rule("coordination.k8s.io", "leases", "get", "create", "update"),
			rule("events.k8s.io", "events", "create", "patch"),
			rule("", "events", "create", "patch"),
		},
	}
}

const account = "system:serviceaccount:sandgate:sandgate-controller"

// grant gives the controller its rights and no others.
func grant(t *testing.T, c client.Client, pool, release string) {
	t.Helper()
	subject := []rbacv1.Subject{{Kind: "User", APIGroup: "rbac.authorization.k8s.io", Name: account}}
	for ns, rules := range rights(pool, release) {
		apiserver.Named(t, c, ns)
		name := metav1.ObjectMeta{Namespace: ns, Name: "controller-" + pool}
		require.NoError(t, c.Create(t.Context(), &rbacv1.Role{ObjectMeta: name, Rules: rules}))
		require.NoError(t, c.Create(t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: name, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: name.Name}, Subjects: subject,
		}))
	}
	name := metav1.ObjectMeta{Name: "controller-" + pool}
	require.NoError(t, c.Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: name, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"persistentvolumes"}, Verbs: []string{"get", "list", "watch"}},
		{
			APIGroups: []string{"admissionregistration.k8s.io"}, Resources: []string{"mutatingwebhookconfigurations"},
			ResourceNames: []string{hookConfiguration(release)}, Verbs: []string{"list", "watch", "update"},
		},
	}}))
	require.NoError(t, c.Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: name, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: name.Name}, Subjects: subject,
	}))
}

func replica(t *testing.T, cfg config, logger *slog.Logger, access *rest.Config, types *runtime.Scheme) (p *process, stop func()) {
	t.Helper()
	p, err := newProcess(cfg, logger, access, types, prometheus.NewRegistry())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.work(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			assert.NoError(t, <-ended)
		})
	}
	t.Cleanup(stop)
	return p, stop
}

// The whole program on a real API server, with the rights that the chart gives it and two replicas.
func TestTheControllerWorksWithNoMoreThanItsRights(t *testing.T) {
	c := apiserver.Client(t, apiserver.Start(t))
	pool, release := apiserver.Namespace(t, c), apiserver.Namespace(t, c)
	grant(t, c, pool, release)
	logger := slog.New(slog.NewTextHandler(log, nil))
	cfg := config{Kubeconfig: apiserver.Kubeconfig(t), ReleaseNamespace: release, Namespaces: []string{pool}, Elect: true, Egress: true}
	access, types, err := connect(cfg)
	require.NoError(t, err)
	access.Impersonate = rest.ImpersonationConfig{UserName: account}
	first, stop := replica(t, cfg, logger, access, types)
	require.Eventually(t, func() bool { return first.ready() == nil }, 30*time.Second, 20*time.Millisecond)
	second, _ := replica(t, cfg, logger, access, types)
	require.Eventually(t, func() bool { return second.ready() == nil }, 30*time.Second, 20*time.Millisecond, "one that waits is ready, too")
	for _, name := range []string{keyring.SecretKeys, keyring.SecretAuthority, keyring.SecretGatewayClient} {
		require.Eventually(t, func() bool {
			return c.Get(t.Context(), client.ObjectKey{Namespace: release, Name: name}, &corev1.Secret{}) == nil
		}, 10*time.Second, 20*time.Millisecond, name)
	}

	set := &v1alpha1.SandboxSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: pool, Name: "pool"},
		Spec: v1alpha1.SandboxSetSpec{
			Replicas: 1, Runtimes: []v1alpha1.Runtime{{Name: "csi"}},
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "sandbox", Image: "i"}}}},
		},
	}
	store := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: pool + "-store"},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}, Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			PersistentVolumeSource: corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{Server: "10.1.2.3", Path: "/"}},
		},
	}
	require.NoError(t, c.Create(t.Context(), store))
	t.Cleanup(func() { _ = c.Delete(context.Background(), store) })
	set.Annotations = map[string]string{v1alpha1.AnnotationEgressVolumes: store.Name}
	require.NoError(t, c.Create(t.Context(), set))
	require.Eventually(t, func() bool {
		var np networkingv1.NetworkPolicy
		err := c.Get(t.Context(), client.ObjectKey{Namespace: pool, Name: egress.Name(set.Name)}, &np)
		return err == nil && len(np.Spec.Egress) == 1 && np.Spec.Egress[0].To[0].IPBlock.CIDR == "10.1.2.3/32"
	}, 20*time.Second, 50*time.Millisecond, log)
	condition := func(kind string) (out metav1.Condition) {
		if c.Get(t.Context(), client.ObjectKeyFromObject(set), set) == nil {
			if found := meta.FindStatusCondition(set.Status.Conditions, kind); found != nil {
				out = *found
			}
		}
		return out
	}
	require.Eventually(t, func() bool {
		return condition(v1alpha1.ConditionFilled).Reason == "InjectionNotConfigured" && first.injection.Fault() != ""
	}, 10*time.Second, 20*time.Millisecond, "there is no ConfigMap yet")
	require.Zero(t, testutil.ToFloat64(injection.Valid(&first.injection)))

	cm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: v1alpha1.InjectionConfigMap},
		Data:       map[string]string{"csi": "sidecars: [{name: agent, image: a}]"},
	}
	require.NoError(t, c.Create(t.Context(), cm))
	t.Cleanup(func() { _ = c.Delete(context.Background(), cm) })
	pods := func() (n int) {
		var list corev1.PodList
		require.NoError(t, c.List(t.Context(), &list, client.InNamespace(pool)))
		return len(list.Items)
	}
	require.Eventually(t, func() bool { return pods() == 1 }, 20*time.Second, 50*time.Millisecond, log)
	require.Eventually(t, func() bool { return testutil.ToFloat64(injection.Valid(&second.injection)) == 1 }, 10*time.Second, 20*time.Millisecond,
		"the webhook of a replica that waits needs it, too")

	cm.Data["csi"] = "sidecars: {"
	require.NoError(t, c.Update(t.Context(), cm))
	require.Eventually(t, func() bool { return condition(v1alpha1.ConditionInjectionConfigured).Status == metav1.ConditionFalse }, 10*time.Second, 20*time.Millisecond)
	require.Eventually(t, func() bool {
		var events corev1.EventList
		require.NoError(t, c.List(t.Context(), &events, client.InNamespace(v1alpha1.SystemNamespace)))
		return len(events.Items) > 0 && events.Items[0].Reason == "InjectionInvalid"
	}, 10*time.Second, 50*time.Millisecond)
	third, _ := replica(t, cfg, logger, access, types)
	require.Eventually(t, func() bool { _, err := third.injection.Config(); return err == nil }, 30*time.Second, 20*time.Millisecond,
		"one that starts while the ConfigMap is broken has what was last in force")
	require.NotEmpty(t, third.injection.Fault(), "and says that it is broken")
	cm.Data["csi"] = "sidecars: [{name: agent, image: a}]"
	require.NoError(t, c.Update(t.Context(), cm))
	require.Eventually(t, func() bool { return condition(v1alpha1.ConditionInjectionConfigured).Status == metav1.ConditionTrue }, 10*time.Second, 20*time.Millisecond)

	stop() // the lease is given back, and another one goes on
	set.Spec.Replicas = 2
	require.NoError(t, c.Patch(t.Context(), &v1alpha1.SandboxSet{ObjectMeta: metav1.ObjectMeta{Namespace: pool, Name: "pool"}},
		client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"replicas":2}}`))))
	require.Eventually(t, func() bool { return pods() == 2 }, 30*time.Second, 50*time.Millisecond)
	require.NotContains(t, log.String(), "forbidden")
}
