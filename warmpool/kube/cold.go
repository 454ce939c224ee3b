package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/template"
)

// errFailed is a sandbox that could not be made.
var errFailed = errors.New("the sandbox could not be made")

// made is what came of a cold sandbox.
type made struct {
	sb  *v1alpha1.Sandbox
	err error
}

// makeCold makes a Sandbox that is o's from its first moment, so that no other claim and no set counts it, and waits until it is
// ready. Only so many are in the making at a time; the others wait for their turn. When ctx ends before somebody has taken what was
// made, the Sandbox is ended.
func (b *Backend) makeCold(ctx context.Context, set *set, o order) <-chan made {
	out := make(chan made) // not buffered: what nobody takes is undone
	b.work.Go(func() {
		m := b.coldSandbox(ctx, set, o)
		select {
		case out <- m:
			return
		case <-ctx.Done():
		}
		if m.sb != nil {
			b.undo(ctx, m.sb)
		}
	})
	return out
}

func (b *Backend) coldSandbox(ctx context.Context, set *set, o order) made {
	places := b.cold
	if o.Nodes != nil { // which may be full or gone: those whom any will do do not wait behind it
		places = b.bound
	}
	if cap(places) == 0 {
		<-ctx.Done() // the claim waits for stock alone
		return made{err: ctx.Err()}
	}
	select {
	case places <- struct{}{}:
	case <-ctx.Done():
		return made{err: ctx.Err()}
	}
	defer func() { <-places }()
	sb, err := b.coldObject(ctx, set, o)
	if err != nil {
		return made{err: err}
	}
	b.starts.add(idOf(sb))
	if err := b.cfg.Client.Create(ctx, sb); err != nil {
		b.starts.drop(idOf(sb))
		if !refused(err) {
			b.undo(ctx, sb) // it may be there all the same
		}
		return made{err: unwritable(err)}
	}
	sb.ManagedFields = nil
	b.shelf.put(sb, false)
	ready, err := b.awaitReady(ctx, sb)
	if err != nil {
		b.undo(ctx, sb)
		return made{err: err}
	}
	return made{sb: ready}
}

// coldObject is a copy of what the controller makes for a set, without the set as its owner, and with a claim.
func (b *Backend) coldObject(ctx context.Context, set *set, o order) (*v1alpha1.Sandbox, error) {
	id := warmpool.NewID()
	claim, err := b.claim(id, o)
	if err != nil {
		return nil, err
	}
	now := b.cfg.Clock.Now()
	end := now.Add(o.Timeout)
	if by, ok := ctx.Deadline(); ok { // its making must not use up its life; Start sets the real one
		end = by.Add(o.Timeout)
	}
	shutdown := deadline(end, now)
	pod := set.Spec.Template.DeepCopy()
	if o.Nodes != nil {
		bind(&pod.Spec, o.Nodes)
	}
	labels := map[string]string{
		v1alpha1.LabelSandboxID: string(id), v1alpha1.LabelPool: set.Name, v1alpha1.LabelTemplate: set.Name, v1alpha1.LabelClaimed: "true",
	}
	if o.IdempotencyKey != "" {
		labels[v1alpha1.LabelIdempotency] = b.digest(o.Principal, o.IdempotencyKey)
	}
	sb := &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: set.Namespace, Name: nameOf(set.Name, id), Labels: labels, Finalizers: []string{v1alpha1.FinalizerMounts},
			Annotations: maps.Clone(pod.Annotations),
		},
		Spec: v1alpha1.SandboxSpec{
			Runtimes: set.Spec.Runtimes, Template: pod, PersistentContents: set.Spec.PersistentContents,
			Claim: claim, ShutdownTime: &shutdown, Volumes: set.Spec.Volumes,
			Mounts: requested(slices.Concat(template.Asked(set.Spec.Volumes, false), template.Asked(set.Spec.Volumes, true), intent(o.Mounts)), claim.Time),
		},
	}
	return sb, nil
}

// bind lets a pod run on those nodes alone, beside what its template asks of a node.
func bind(pod *corev1.PodSpec, nodes []string) {
	if pod.Affinity == nil {
		pod.Affinity = &corev1.Affinity{}
	}
	if pod.Affinity.NodeAffinity == nil {
		pod.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	terms := []corev1.NodeSelectorTerm{{}}
	if own := pod.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution; own != nil {
		terms = own.NodeSelectorTerms
	}
	bound := &corev1.NodeSelector{}
	for _, term := range terms {
		for _, node := range nodes { // a field has one value
			t := term.DeepCopy()
			t.MatchFields = append(t.MatchFields, corev1.NodeSelectorRequirement{
				Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
			})
			bound.NodeSelectorTerms = append(bound.NodeSelectorTerms, *t)
		}
	}
	pod.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = bound
}

// nameOf is the name of a set's sandbox, and of its pod. Long set names are cut: a pod's name is its host name, too.
func nameOf(set string, id warmpool.ID) string {
	const most = 63 - 1 - 10
	if len(set) > most {
		set = strings.TrimRight(set[:most], "-.")
	}
	return set + "-" + string(id[1:11])
}

// awaitReady waits until a sandbox can be started.
func (b *Backend) awaitReady(ctx context.Context, sb *v1alpha1.Sandbox) (*v1alpha1.Sandbox, error) {
	for {
		now, changed := b.shelf.watch(sb.UID)
		switch {
		case now == nil, now.DeletionTimestamp != nil:
			return nil, &warmpool.Error{
				Code: warmpool.Unavailable, Message: "the sandbox was ended while it was being made; try again", RetryAfter: time.Second, Err: errFailed,
			}
		case stateOf(now) == warmpool.Failed:
			return nil, &warmpool.Error{
				Code: warmpool.Unavailable, RetryAfter: 5 * time.Second, Err: errFailed,
				Message: fmt.Sprintf("no sandbox of template '%s' is free and none can be made: %s", now.Labels[v1alpha1.LabelPool], now.Status.Message),
			}
		case isReady(now) && now.Status.SandboxIP != "":
			return now, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// undo ends a sandbox of a request that has failed, though the request may be gone.
func (b *Backend) undo(ctx context.Context, sb *v1alpha1.Sandbox) {
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), undo)
	defer cancel()
	b.starts.drop(idOf(sb))
	b.shelf.release(idOf(sb))
	if err := b.delete(after, sb); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		b.cfg.Log.Error("sandbox of a failed create could not be ended; its deadline ends it", "sandbox", idOf(sb), "error", err)
	}
}
