package egress_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	crlog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/sandgate-dev/sandgate/csiagent/driver/nas"
	"github.com/sandgate-dev/sandgate/csiagent/driver/oss"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/controller/egress"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest/apiserver"
)

func TestMain(m *testing.M) {
	crlog.SetLogger(logr.Discard())
	os.Exit(apiserver.Main(m))
}

// names is what is resolved.
type names struct {
	mu sync.Mutex
	at map[string][]netip.Addr
}

func (n *names) say(host string, addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.at[host] = nil
	for _, a := range addresses {
		n.at[host] = append(n.at[host], netip.MustParseAddr(a))
	}
}

func (n *names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.at[host]) == 0 {
		return nil, errors.New("no such host")
	}
	return n.at[host], nil
}

type world struct {
	*egress.Reconciler
	t      *testing.T
	client client.WithWatch
	ns     string
	names  *names
	clock  *testclock.FakePassiveClock
	events *events.FakeRecorder
	config egress.Config
}

func newWorld(t *testing.T) *world {
	t.Helper()
	cfg := apiserver.Start(t)
	w := &world{
		t: t, client: apiserver.Client(t, cfg), names: &names{at: map[string][]netip.Addr{}}, events: events.NewFakeRecorder(64),
		clock: testclock.NewFakePassiveClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)),
	}
	w.ns = apiserver.Namespace(t, w.client)
	var g mount.Guard
	require.NoError(t, g.Bar("10.96.0.1"))
	nothing := func(mount.Mount) ([]mount.Endpoint, error) { return nil, nil }
	sts, err := oss.STS("https://sts-vpc.example.com")
	require.NoError(t, err)
	w.config = egress.Config{
		Client: w.client, Guard: g, Resolver: w.names, Events: w.events, Clock: w.clock, Log: slog.New(slog.DiscardHandler),
		Endpoints: map[string]func(mount.Mount) ([]mount.Endpoint, error){
			mount.DriverOSS: oss.Endpoints(sts), mount.DriverNAS: nas.Endpoints, mount.DriverTmpfs: nothing,
		},
	}
	w.Reconciler, err = egress.New(w.config)
	require.NoError(t, err)
	return w
}

// volume makes a PersistentVolume and returns its name, which no other test has.
func (w *world) volume(name, driver string, attributes map[string]string) string {
	w.t.Helper()
	name = w.ns + "-" + name
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: driver, VolumeHandle: name, VolumeAttributes: attributes,
			}},
		},
	}
	require.NoError(w.t, w.client.Create(w.t.Context(), pv))
	w.t.Cleanup(func() { _ = w.client.Delete(context.WithoutCancel(w.t.Context()), pv) })
	return name
}

func (w *world) set(name string, volumes ...string) *v1alpha1.SandboxSet {
	w.t.Helper()
	set := &v1alpha1.SandboxSet{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}}
	set.Spec.Template.Spec.Containers = []corev1.Container{{Name: "sandbox", Image: "x"}}
	if volumes != nil {
		set.Annotations = map[string]string{v1alpha1.AnnotationEgressVolumes: strings.Join(volumes, " , ")}
	}
	require.NoError(w.t, w.client.Create(w.t.Context(), set))
	return set
}

// look reconciles a set and returns what its policy lets through, a line for each rule.
func (w *world) look(set *v1alpha1.SandboxSet) []string {
	w.t.Helper()
	res, err := w.Reconcile(w.t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(set)})
	require.NoError(w.t, err)
	rules := w.rules(set)
	if _, asked := set.Annotations[v1alpha1.AnnotationEgressVolumes]; asked || rules != nil {
		require.Equal(w.t, time.Minute, res.RequeueAfter)
	}
	return rules
}

func (w *world) rules(set *v1alpha1.SandboxSet) (out []string) {
	w.t.Helper()
	var np networkingv1.NetworkPolicy
	err := w.client.Get(w.t.Context(), client.ObjectKey{Namespace: w.ns, Name: egress.Name(set.Name)}, &np)
	if apierrors.IsNotFound(err) {
		return nil
	}
	require.NoError(w.t, err)
	require.Equal(w.t, map[string]string{v1alpha1.LabelPool: set.Name}, np.Spec.PodSelector.MatchLabels)
	require.Equal(w.t, []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}, np.Spec.PolicyTypes)
	require.Empty(w.t, np.Spec.Ingress)
	require.True(w.t, metav1.IsControlledBy(&np, set))
	for _, rule := range np.Spec.Egress {
		var line []string
		for _, to := range rule.To {
			if to.IPBlock == nil {
				line = append(line, to.PodSelector.MatchLabels["k8s-app"])
				continue
			}
			require.Empty(w.t, to.IPBlock.Except)
			line = append(line, to.IPBlock.CIDR)
		}
		for _, port := range rule.Ports {
			line = append(line, string(*port.Protocol)+":"+port.Port.String())
		}
		out = append(out, strings.Join(line, " "))
	}
	return out
}

// told are the events since the last time.
func (w *world) told() (out []string) {
	for {
		select {
		case e := <-w.events.Events:
			out = append(out, e)
		default:
			return out
		}
	}
}

const dns = "kube-dns UDP:53 TCP:53"

func TestAPoolReachesTheServersOfItsVolumesAndNothingElse(t *testing.T) {
	w := newWorld(t)
	w.names.say("s3.example.com", "192.0.2.7", "2001:db8::7")
	w.names.say("data.s3.example.com", "192.0.2.8", "::ffff:192.0.2.7")
	w.names.say("nas.example.com", "10.1.2.3")
	bucket := w.volume("bucket", mount.DriverOSS, map[string]string{"bucket": "data", "url": "s3.example.com"})
	share := w.volume("share", mount.DriverNAS, map[string]string{"server": "nas.example.com", "path": "/a"})
	modern := w.volume("modern", mount.DriverNAS, map[string]string{"server": "10.1.2.4", "path": "/a", "vers": "4.1", "options": "port=2050"})
	inside := w.volume("inside", mount.DriverOSS, map[string]string{"bucket": "data", "url": "http://10.1.2.5:9000"})
	memory := w.volume("memory", mount.DriverTmpfs, map[string]string{"size": "1Mi"})

	require.Equal(t, []string{
		dns, "10.1.2.3/32 TCP:2049 TCP:111 TCP:20048", "10.1.2.4/32 TCP:2050", "10.1.2.5/32 TCP:9000",
		"192.0.2.7/32 192.0.2.8/32 2001:db8::7/128 TCP:443",
	}, w.look(w.set("all", bucket, share, modern, inside, memory, bucket)))
	require.Equal(t, []string{"10.1.2.5/32 TCP:9000"}, w.look(w.set("one", inside)), "nobody needs a name server for an address")
	require.Empty(t, w.look(w.set("none")))
	require.Empty(t, w.told())
}

func TestTheVolumesOfASetAreReachedWithoutBeingNamed(t *testing.T) {
	w := newWorld(t)
	bucket := w.volume("bucket", mount.DriverOSS, map[string]string{"bucket": "data", "url": "http://10.1.2.5:9000"})
	share := w.volume("share", mount.DriverNAS, map[string]string{"server": "10.1.2.4", "path": "/a", "vers": "4.1"})
	w.volume("claimed", mount.DriverNAS, map[string]string{"server": "10.1.2.6", "path": "/a"})
	own := []v1alpha1.PoolVolume{
		{Name: "bucket", MountPath: "/bucket", PersistentVolume: &v1alpha1.PersistentVolumeSource{Name: bucket}},
		{Name: "share", MountPath: "/share", MountAt: v1alpha1.MountAtClaim, PersistentVolume: &v1alpha1.PersistentVolumeSource{Name: share}},
		{Name: "export", MountPath: "/export", NFS: &corev1.NFSVolumeSource{Server: "10.1.2.7", Path: "/"}},
		{Name: "claimed", MountPath: "/claimed", PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claimed"}},
	}
	set := w.set("pool")
	require.Empty(t, w.look(set))
	set.Spec.Volumes = own
	require.NoError(t, w.client.Update(t.Context(), set))
	require.Equal(t, []string{"10.1.2.4/32 TCP:2049", "10.1.2.5/32 TCP:9000"}, w.look(set), "what the kubelet mounts is the node's business")

	named := w.set("named", share)
	named.Spec.Volumes = own[:1]
	require.NoError(t, w.client.Update(t.Context(), named))
	require.Equal(t, []string{"10.1.2.4/32 TCP:2049", "10.1.2.5/32 TCP:9000"}, w.look(named), "beside those that it names")

	set.Spec.Volumes = own[2:]
	require.NoError(t, w.client.Update(t.Context(), set))
	require.Empty(t, w.look(set))
	require.Empty(t, w.told())
}

// The chart's own policy leaves 100.64.0.0/10 out of the internet, and clouds have their internal endpoints there.
func TestInternalEndpointsAreLetThroughOneByOne(t *testing.T) {
	w := newWorld(t)
	w.names.say("oss-internal.example.com", "100.118.28.49")
	w.names.say("data.oss-internal.example.com", "100.118.28.50")
	w.names.say("sts-vpc.example.com", "100.100.80.81", "100.100.100.200")
	attributes := map[string]string{"bucket": "data", "url": "https://oss-internal.example.com"}
	require.Equal(t, []string{dns, "100.118.28.49/32 100.118.28.50/32 TCP:443"}, w.look(w.set("key", w.volume("key", mount.DriverOSS, attributes))),
		"one with a Secret signs in nowhere")
	require.Empty(t, w.told())
	attributes["authType"], attributes["roleArn"], attributes["oidcProviderArn"] = "rrsa", "r", "p"
	require.Equal(t, []string{dns, "100.100.80.81/32 TCP:443", "100.118.28.49/32 100.118.28.50/32 TCP:443"},
		w.look(w.set("role", w.volume("role", mount.DriverOSS, attributes))))
	require.Contains(t, strings.Join(w.told(), ""), "it leads to an address at which no volume's server may be", "a metadata service is there, too")
}

func TestAServerThatMovesIsFollowed(t *testing.T) {
	w := newWorld(t)
	w.names.say("s3.example.com", "192.0.2.1")
	set := w.set("pool", w.volume("bucket", mount.DriverOSS, map[string]string{"bucket": "data", "url": "s3.example.com"}))
	require.Equal(t, []string{dns, "192.0.2.1/32 TCP:443"}, w.look(set))
	before := w.version(set)
	require.Equal(t, []string{dns, "192.0.2.1/32 TCP:443"}, w.look(set))
	require.Equal(t, before, w.version(set), "what is as it was is not written")
	w.names.say("s3.example.com", "192.0.2.3")
	w.look(set)
	require.Equal(t, before, w.version(set), "nobody asks again before the time, whatever wakes it")

	w.clock.SetTime(w.clock.Now().Add(14 * time.Minute))
	w.names.say("s3.example.com", "192.0.2.2")
	require.Equal(t, []string{dns, "192.0.2.1/32 192.0.2.2/32 TCP:443"}, w.look(set), "whoever has connected stays connected")
	w.clock.SetTime(w.clock.Now().Add(2 * time.Minute))
	require.Equal(t, []string{dns, "192.0.2.2/32 TCP:443"}, w.look(set))

	w.names.say("s3.example.com")
	w.clock.SetTime(w.clock.Now().Add(time.Hour))
	require.Equal(t, []string{dns, "192.0.2.2/32 TCP:443"}, w.look(set), "name servers that are away take nothing away")
	require.Empty(t, w.told())
}

func (w *world) version(set *v1alpha1.SandboxSet) string {
	var np networkingv1.NetworkPolicy
	require.NoError(w.t, w.client.Get(w.t.Context(), client.ObjectKey{Namespace: w.ns, Name: egress.Name(set.Name)}, &np))
	return np.ResourceVersion
}

func TestWhatCannotBeLetThroughIsToldOnce(t *testing.T) {
	w := newWorld(t)
	w.names.say("evil.example.com", "169.254.169.254", "192.0.2.9")
	w.names.say("api.example.com", "10.96.0.1")
	nowhere := w.volume("nowhere", mount.DriverOSS, map[string]string{"bucket": "data", "url": "nowhere.example.com"})
	evil := w.volume("evil", mount.DriverOSS, map[string]string{"bucket": "data", "url": "http://evil.example.com"})
	api := w.volume("api", mount.DriverNAS, map[string]string{"server": "api.example.com"})
	loop := w.volume("loop", mount.DriverNAS, map[string]string{"server": "127.0.0.1"})
	smb := w.volume("smb", "smb.csi.k8s.io", nil)
	wrong := w.volume("wrong", mount.DriverOSS, map[string]string{"bucket": "data", "url": "ftp://x"})
	set := w.set("pool", nowhere, evil, api, loop, smb, wrong, "no-such-volume")
	require.Equal(t, []string{dns, "192.0.2.9/32 TCP:80"}, w.look(set))
	told := w.told()
	require.Len(t, told, 1)
	for _, words := range []string{
		"Warning EgressIncomplete", "nowhere: nowhere.example.com does not resolve", "evil: it leads to an address", "api: it leads", "loop: it leads",
		`smb: where driver "smb.csi.k8s.io"`, "wrong: invalid volume: the attribute url", "no-such-volume: there is no such",
	} {
		require.Contains(t, told[0], words)
	}
	w.look(set)
	require.Empty(t, w.told(), "the same is not told again")
	w.names.say("nowhere.example.com", "192.0.2.10")
	require.Equal(t, []string{dns, "192.0.2.9/32 TCP:80", "192.0.2.10/32 TCP:443"}, w.look(set))
	require.NotContains(t, strings.Join(w.told(), ""), "does not resolve")
}

func TestASetThatNamesNoVolumesAnyMoreHasNoPolicy(t *testing.T) {
	w := newWorld(t)
	set := w.set("pool", w.volume("inside", mount.DriverOSS, map[string]string{"bucket": "data", "url": "http://10.1.2.5:9000"}))
	require.NotEmpty(t, w.look(set))
	set.Annotations = nil
	require.NoError(t, w.client.Update(t.Context(), set))
	require.Empty(t, w.look(set))

	theirs := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: egress.Name("other")}}
	theirs.Spec.PodSelector.MatchLabels = map[string]string{"a": "b"}
	require.NoError(t, w.client.Create(t.Context(), theirs))
	other := w.set("other", "x")
	_, err := w.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(other)})
	require.NoError(t, err)
	require.Contains(t, strings.Join(w.told(), ""), "is somebody else's")
	other.Annotations = nil
	require.NoError(t, w.client.Update(t.Context(), other))
	_, err = w.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(other)})
	require.NoError(t, err)
	require.NoError(t, w.client.Get(t.Context(), client.ObjectKeyFromObject(theirs), theirs))
	require.Equal(t, map[string]string{"a": "b"}, theirs.Spec.PodSelector.MatchLabels)
}

func TestSetsVolumesAndPoliciesWakeIt(t *testing.T) {
	w := newWorld(t)
	rest := apiserver.Start(t)
	pools := map[string]cache.Config{w.ns: {}}
	mgr, err := ctrl.NewManager(rest, ctrl.Options{
		Scheme: apiserver.Scheme(), Logger: logr.Discard(), Metrics: server.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: ptr.To(true)},
		Cache: cache.Options{ByObject: map[client.Object]cache.ByObject{&v1alpha1.SandboxSet{}: {Namespaces: pools}, &networkingv1.NetworkPolicy{}: {Namespaces: pools}}},
	})
	require.NoError(t, err)
	w.config.Client, w.config.Events = mgr.GetClient(), mgr.GetEventRecorder("test")
	r, err := egress.New(w.config)
	require.NoError(t, err)
	require.NoError(t, r.Setup(mgr))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- mgr.Start(ctx) }()
	defer func() { stop(); require.NoError(t, <-done) }()

	eventually := func(set *v1alpha1.SandboxSet, want ...string) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.Join(w.rules(set), "\n") == strings.Join(want, "\n") }, 20*time.Second, 20*time.Millisecond)
	}
	set := w.set("pool", w.ns+"-late")
	eventually(set)
	w.volume("late", mount.DriverOSS, map[string]string{"bucket": "data", "url": "http://10.1.2.5:9000"})
	eventually(set, "10.1.2.5/32 TCP:9000")
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: egress.Name("pool")}}
	require.NoError(t, w.client.Delete(t.Context(), np))
	eventually(set, "10.1.2.5/32 TCP:9000")
	require.NoError(t, w.client.Get(t.Context(), client.ObjectKeyFromObject(set), set))
	set.Annotations = nil
	require.NoError(t, w.client.Update(t.Context(), set))
	gone := func() {
		t.Helper()
		require.Eventually(t, func() bool {
			return apierrors.IsNotFound(w.client.Get(t.Context(), client.ObjectKeyFromObject(np), np))
		}, 20*time.Second, 20*time.Millisecond)
	}
	gone()
	set.Spec.Volumes = []v1alpha1.PoolVolume{{Name: "own", MountPath: "/own", PersistentVolume: &v1alpha1.PersistentVolumeSource{Name: w.ns + "-later"}}}
	require.NoError(t, w.client.Update(t.Context(), set))
	w.volume("later", mount.DriverOSS, map[string]string{"bucket": "data", "url": "http://10.1.2.6:9000"})
	eventually(set, "10.1.2.6/32 TCP:9000")
	set.Spec.Volumes = nil
	require.NoError(t, w.client.Update(t.Context(), set))
	gone()
}
