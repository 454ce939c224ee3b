// Package egress lets the sandboxes of a pool out to the servers of the volumes that its SandboxSet has or names, and nowhere else: it keeps
// one NetworkPolicy per set, and looks the servers' names up again and again. Whether anybody enforces NetworkPolicies is the cluster's matter.
package egress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/controller/injection"
)

// Resolver looks up names; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Config is what a Reconciler needs. Fields without a default are required.
type Config struct {
	Client client.Client
	// Endpoints says by driver where a volume's servers are. Of the volumes of other drivers nobody knows it.
	Endpoints map[string]func(mount.Mount) ([]mount.Endpoint, error)
	// Guard says at which addresses no server may be; none is let through.
	Guard    mount.Guard
	Resolver Resolver
	// Every is how often names are looked up; a minute.
	Every time.Duration
	// Keep is how long an address is let through after a name led to it last, since many stores answer each time with others; 15 minutes.
	Keep   time.Duration
	Events events.EventRecorder
	// Clock is the real one when nil.
	Clock clock.PassiveClock
	Log   *slog.Logger
}

// Reconciler reconciles SandboxSets with their NetworkPolicies.
type Reconciler struct {
	cfg Config

	mu   sync.Mutex
	sets map[client.ObjectKey]*memory
}

// memory is what is known of a set's names.
type memory struct {
	seen map[string]map[netip.Addr]time.Time // by name
	said string                              // the last complaint
}

// New makes a Reconciler; Setup gives it to a manager.
func New(cfg Config) (*Reconciler, error) {
	if cfg.Client == nil || cfg.Resolver == nil || cfg.Events == nil || cfg.Log == nil || len(cfg.Endpoints) == 0 {
		return nil, errors.New("egress: Client, Endpoints, Resolver, Events and Log are needed")
	}
	if cfg.Every <= 0 {
		cfg.Every = time.Minute
	}
	if cfg.Keep <= 0 {
		cfg.Keep = 15 * time.Minute
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	return &Reconciler{cfg: cfg, sets: map[client.ObjectKey]*memory{}}, nil
}

// Name is that of a set's NetworkPolicy.
func Name(set string) string { return set + "-volumes" }

// Reconcile makes a set's NetworkPolicy say where its volumes' servers are now.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var set v1alpha1.SandboxSet
	err := r.cfg.Client.Get(ctx, req.NamespacedName, &set)
	if err != nil || set.DeletionTimestamp != nil {
		r.recall(req.NamespacedName, false)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	names, asked := volumes(&set)
	m := r.recall(req.NamespacedName, asked)
	if !asked {
		return ctrl.Result{}, r.remove(ctx, &set)
	}
	p := &pass{Reconciler: r, memory: m, now: r.cfg.Clock.Now(), names: map[string]bool{}}
	if err := p.gather(ctx, names); err != nil {
		return ctrl.Result{}, err
	}
	for name := range m.seen { // of volumes that are not among them any more
		if !p.names[name] {
			delete(m.seen, name)
		}
	}
	if err := r.apply(ctx, &set, p.rules()); errors.Is(err, errForeign) {
		p.complaints = append(p.complaints, err.Error())
	} else if err != nil {
		return ctrl.Result{}, err
	}
	slices.Sort(p.complaints)
	if said := strings.Join(p.complaints, "; "); said != m.said {
		m.said = said
		if said != "" {
			injection.Tell(r.cfg.Events, &set, corev1.EventTypeWarning, "EgressIncomplete", "Resolve", said)
		}
	}
	return ctrl.Result{RequeueAfter: r.cfg.Every}, nil
}

// recall returns what is known of a set, and forgets it when it is not kept.
func (r *Reconciler) recall(key client.ObjectKey, keep bool) *memory {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !keep {
		delete(r.sets, key)
		return nil
	}
	if r.sets[key] == nil {
		r.sets[key] = &memory{seen: map[string]map[netip.Addr]time.Time{}}
	}
	return r.sets[key]
}

// volumes are the PersistentVolumes whose servers a set's pods are to reach: those of its own that the agent mounts, and those that its
// annotation names for requests. What the kubelet mounts (claims, nfs) goes over the node's network, and opens nothing to the pod. Without any,
// asked says whether the set has the annotation all the same.
func volumes(set *v1alpha1.SandboxSet) (out []string, asked bool) {
	list, asked := set.Annotations[v1alpha1.AnnotationEgressVolumes]
	names := strings.Split(list, ",")
	for _, v := range set.Spec.Volumes {
		if v.PersistentVolume != nil {
			names = append(names, v.PersistentVolume.Name)
		}
	}
	for _, name := range names {
		if name = strings.TrimSpace(name); name != "" && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out, asked || len(out) > 0
}

// apply writes the set's policy if it is another one than before.
func (r *Reconciler) apply(ctx context.Context, set *v1alpha1.SandboxSet, rules []networkingv1.NetworkPolicyEgressRule) error {
	want := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: set.Namespace, Name: Name(set.Name),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, v1alpha1.GroupVersion.WithKind("SandboxSet"))},
		},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{v1alpha1.LabelPool: set.Name}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}, Egress: rules,
		},
	}
	has, err := r.policy(ctx, set)
	switch {
	case apierrors.IsNotFound(err):
		if err := r.cfg.Client.Create(ctx, want); err != nil {
			return fmt.Errorf("make NetworkPolicy %s: %w", want.Name, err)
		}
		return nil
	case err != nil:
		return err
	case equality.Semantic.DeepEqual(has.Spec, want.Spec):
		return nil
	}
	has = has.DeepCopy()
	has.Spec = want.Spec
	if err := r.cfg.Client.Update(ctx, has); err != nil {
		return fmt.Errorf("change NetworkPolicy %s: %w", want.Name, err)
	}
	r.cfg.Log.InfoContext(ctx, "servers of a pool's volumes have other addresses", "set", set.Name, "namespace", set.Namespace)
	return nil
}

var errForeign = errors.New("is somebody else's and is left alone; rename it")

// policy is the set's own. One of that name that is somebody else's is left alone.
func (r *Reconciler) policy(ctx context.Context, set *v1alpha1.SandboxSet) (*networkingv1.NetworkPolicy, error) {
	var has networkingv1.NetworkPolicy
	if err := r.cfg.Client.Get(ctx, client.ObjectKey{Namespace: set.Namespace, Name: Name(set.Name)}, &has); err != nil {
		return nil, err
	}
	if !metav1.IsControlledBy(&has, set) {
		return nil, fmt.Errorf("NetworkPolicy %s %w", has.Name, errForeign)
	}
	return &has, nil
}

// remove takes away the policy of a set that has and names no volumes any more.
func (r *Reconciler) remove(ctx context.Context, set *v1alpha1.SandboxSet) error {
	has, err := r.policy(ctx, set)
	if errors.Is(err, errForeign) {
		return nil
	}
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	return client.IgnoreNotFound(r.cfg.Client.Delete(ctx, has))
}
