// Package sandbox brings Sandboxes to life and to their end: it makes their pods, as nobody else does, tells in their status how they are,
// keeps their volumes mounted after restarts, and detaches them before the pod goes. It knows neither pools nor requests.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/controller/injection"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

// Fitter reaches sandboxes. Errors are those of package channel.
type Fitter interface {
	Init(ctx context.Context, sb *v1alpha1.Sandbox, env map[string]string) error
	Env(sb *v1alpha1.Sandbox) (map[string]string, error)
	Publish(ctx context.Context, sb *v1alpha1.Sandbox, m mount.Mount) error
	Unpublish(ctx context.Context, sb *v1alpha1.Sandbox, m v1alpha1.MountStatus) error
	// Health says what is wrong with a mount, nothing when it works; mount.ErrNotFound when there is none.
	Health(ctx context.Context, sb *v1alpha1.Sandbox, m v1alpha1.MountStatus) (node.Health, error)
	// Drop closes the connections to a sandbox.
	Drop(sb *v1alpha1.Sandbox)
}

// Authority issues the identities of agents.
type Authority interface {
	Agent(sandboxUID string, now time.Time) (channel.Identity, error)
}

// Config is what a Reconciler needs. Fields without a default are required.
type Config struct {
	// Client reads from the cache and writes to the API server.
	Client client.Client
	// Live reads from the API server.
	Live client.Reader
	// Injection is the injection configuration in force.
	Injection *injection.Current
	Fitter    Fitter
	Authority Authority
	// InitKey is the public half of the key that initialisations are signed with.
	InitKey string
	// Volumes brings what mounts are resolved from, Policy what they must keep to, and Check what their driver would refuse. Plugins are the
	// drivers of Policy that only sandboxes with a runtime of theirs have. Default is for volumes whose annotations name nobody; volume.Unbound
	// when empty.
	Volumes volume.Reader
	Default volume.Default
	Policy  mount.Policy
	Plugins volume.Plugins
	Check   func(mount.Mount) error
	Events  events.EventRecorder
	Times   Times
	// Clock is the real one when nil.
	Clock clock.PassiveClock
	Log   *slog.Logger
}

// Times are the reconciler's bounds.
type Times struct {
	// Settle is how long after a claim the first look at its mounts is taken: the request is answered before. 1 s.
	Settle time.Duration
	// Create is how long after a claim, or after a request for a mount, missing mounts may still be its request's business. 30 s.
	Create time.Duration
	// Look is between two looks at mounts that work. 10 s.
	Look time.Duration
	// Init is between two initialisations of a sandbox's daemon, which may have restarted unseen. 60 s.
	Init time.Duration
	// Detach bounds the flushing and detaching of a deleted sandbox's volumes. 20 s.
	Detach time.Duration
	// Linger is how much longer than its grace period a deleted sandbox's pod is waited for. 30 s.
	Linger time.Duration
}

func (t *Times) fill() {
	for _, f := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&t.Settle, time.Second}, {&t.Create, 30 * time.Second}, {&t.Look, 10 * time.Second}, {&t.Init, time.Minute},
		{&t.Detach, 20 * time.Second}, {&t.Linger, 30 * time.Second},
	} {
		if *f.field == 0 {
			*f.field = f.value
		}
	}
}

// Reconciler reconciles Sandboxes.
type Reconciler struct {
	cfg    Config
	chores *chores
}

// New makes a Reconciler; Setup gives it to a manager.
func New(cfg Config) (*Reconciler, error) {
	switch {
	case cfg.Client == nil || cfg.Live == nil:
		return nil, errors.New("sandbox: Client and Live are needed")
	case cfg.Injection == nil || cfg.InitKey == "" || cfg.Authority == nil:
		return nil, errors.New("sandbox: Injection, InitKey and Authority are needed; pods are made of them")
	case cfg.Fitter == nil || cfg.Volumes == nil || len(cfg.Policy.Drivers) == 0:
		return nil, errors.New("sandbox: Fitter, Volumes and a Policy with drivers are needed; mounts are repaired with them")
	case cfg.Events == nil || cfg.Log == nil:
		return nil, errors.New("sandbox: Events and Log are needed")
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Check == nil {
		cfg.Check = func(mount.Mount) error { return nil }
	}
	cfg.Times.fill()
	return &Reconciler{cfg: cfg, chores: newChores()}, nil
}

// Reconcile brings one sandbox nearer to what it is to be.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var sb v1alpha1.Sandbox
	if err := r.cfg.Client.Get(ctx, req.NamespacedName, &sb); err != nil {
		if apierrors.IsNotFound(err) {
			if uid := r.chores.forget(req.NamespacedName); uid != "" { // it went without us
				r.cfg.Fitter.Drop(&v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{UID: uid}})
			}
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	p := &pass{r: r, sb: &sb, before: sb.DeepCopy(), now: r.cfg.Clock.Now(), memory: r.chores.of(&sb)}
	err := p.run(ctx)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) { // somebody has changed it; the cache will say how
		return ctrl.Result{RequeueAfter: 100 * time.Millisecond}, nil
	}
	return ctrl.Result{RequeueAfter: p.next}, err
}

// pass is one reconciliation of one sandbox.
type pass struct {
	r      *Reconciler
	sb     *v1alpha1.Sandbox
	before *v1alpha1.Sandbox // as the cache has it
	now    time.Time
	memory *memory
	next   time.Duration // until the next look, 0 for none
	waits  bool          // a chore is due, and begins once what came of the last one is in the status
}

// again asks for another look after d at the latest.
func (p *pass) again(d time.Duration) {
	if d = max(d, time.Millisecond); p.next == 0 || d < p.next {
		p.next = d
	}
}

func (p *pass) run(ctx context.Context) error {
	if p.sb.DeletionTimestamp != nil {
		return p.finish(ctx)
	}
	if over, err := p.deadline(ctx); over || err != nil {
		return err
	}
	if changed, err := p.name(ctx); changed || err != nil {
		return err
	}
	err := p.live(ctx)
	if errors.Is(err, errFresh) {
		return nil
	}
	p.over()
	return errors.Join(err, p.write(ctx))
}

// brief is how long a sandbox may be starting, or ending, without its status saying so. Most are over with it by then, and what nobody has
// had the time to read was not worth a write.
const brief = 2 * time.Second

// unhurried is how long the status can wait: that of a new sandbox that is starting, as new ones are.
func (p *pass) unhurried() time.Duration {
	c := meta.FindStatusCondition(p.sb.Status.Conditions, v1alpha1.ConditionReady)
	if p.before.Status.ObservedGeneration != 0 || c == nil || c.Reason != v1alpha1.ReasonStarting {
		return 0
	}
	age := p.now.Sub(p.sb.CreationTimestamp.Time)
	if age < -brief { // by another clock
		return 0
	}
	return brief - age
}

// errFresh says that a sandbox was claimed a moment ago and is as well as it was: whatever there is to write can wait until the request
// has been answered.
var errFresh = errors.New("claimed a moment ago")

// live looks after a sandbox that is not to end.
func (p *pass) live(ctx context.Context) error {
	if ended(p.sb) {
		return nil // what it was is gone, and another pod would not be the same sandbox
	}
	if f := unsupported(p.sb); f != nil {
		p.fail(*f)
		return nil
	}
	pod, err := p.pod(ctx)
	if err != nil || pod == nil {
		return err
	}
	if p.fresh(pod) {
		return errFresh
	}
	if err := p.recall(ctx); err != nil {
		return err
	}
	if p.wanted(pod) {
		p.apply(basis(p.sb, pod))
	}
	p.judge(pod)
	if err := p.renew(ctx); err != nil {
		return err
	}
	if err := p.protect(ctx, pod); err != nil {
		return err
	}
	p.fit(pod)
	return nil
}

// ended says that the sandbox has had its pod and that it has ended for good.
func ended(sb *v1alpha1.Sandbox) bool {
	return sb.Status.PodInfo.PodUID != "" && (sb.Status.Phase == v1alpha1.PhaseFailed || sb.Status.Phase == v1alpha1.PhaseSucceeded)
}

// fresh is whether nothing is to be done now for errFresh's reason.
func (p *pass) fresh(pod *corev1.Pod) bool {
	claim := p.sb.Spec.Claim
	if claim == nil || !ready(pod) || !isReady(p.sb) {
		return false
	}
	left := claim.Time.Add(p.r.cfg.Times.Settle).Sub(p.now)
	if left <= 0 || left > p.r.cfg.Times.Settle { // of a clock that runs ahead
		return false
	}
	p.again(left)
	return true
}

func (p *pass) warn(reason, action, message string) {
	p.event(corev1.EventTypeWarning, reason, action, message)
}

func (p *pass) event(kind, reason, action, message string) {
	injection.Tell(p.r.cfg.Events, p.sb, kind, reason, action, message)
}

// write patches the status, if it tells something new. Chores that are done are forgotten only when it is written.
func (p *pass) write(ctx context.Context) error {
	p.sb.Status.ObservedGeneration = p.sb.Generation
	if same(&p.before.Status, &p.sb.Status) {
		p.taken()
		return nil
	}
	if left := p.unhurried(); left > 0 {
		p.again(left)
		return nil
	}
	patch := client.MergeFromWithOptions(p.before, client.MergeFromWithOptimisticLock{})
	if err := p.r.cfg.Client.Status().Patch(ctx, p.sb, patch); err != nil {
		return fmt.Errorf("write the status of %s: %w", p.sb.Name, err)
	}
	p.taken()
	return nil
}

// taken is called when what came of a chore is in the status. Our own write of that wakes nobody.
func (p *pass) taken() {
	p.memory.taken()
	if p.waits {
		p.again(time.Millisecond)
	}
}
