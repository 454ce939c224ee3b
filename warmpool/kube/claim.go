package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/start"
	"github.com/sandgate-dev/sandgate/warmpool/template"
)

// errTaken says that a piece of stock is not stock any more.
var errTaken = errors.New("taken by another claim, or gone")

// Claim takes a sandbox from stock by one write. When there is none it waits in line for one, and where the line is longer than
// what the controller is making anyway, or only certain nodes will do, a sandbox is made for this claim alone: whichever is ready first is
// taken.
func (b *Backend) Claim(ctx context.Context, c warmpool.Claim) (warmpool.Sandbox, error) {
	set, err := b.claimable(ctx, c)
	if err != nil {
		return warmpool.Sandbox{}, err
	}
	sb, kind, err := b.obtain(ctx, set, order{Claim: c, nonce: string(warmpool.NewID()), request: b.cfg.Request(ctx)})
	b.cfg.Observer.Claimed(set.Name, kind, err)
	if err != nil {
		return warmpool.Sandbox{}, err
	}
	return b.view(sb), nil
}

// claimable refuses what cannot be claimed at all.
func (b *Backend) claimable(ctx context.Context, c warmpool.Claim) (*set, error) {
	if err := ctx.Err(); err != nil {
		return nil, &warmpool.Error{Code: warmpool.Unavailable, Message: "the request ended before a sandbox was taken", Err: err}
	}
	if err := b.Ready(); err != nil {
		return nil, err
	}
	set, err := b.sets.find(c.Template)
	switch {
	case err != nil:
		return nil, err
	case set.faulty:
		return nil, warmpool.Errorf(warmpool.Unavailable, "template '%s' cannot be used: %s", set.Name, set.template.Reason)
	case c.AllowInternet != nil && !*c.AllowInternet:
		// The network of a pod is made with it. Not to keep the rule and say nothing would be worse.
		return nil, warmpool.Errorf(warmpool.Unsupported, "a sandbox's network cannot be taken away here; use a template whose pods have none, and leave it out")
	}
	return set, nil
}

// order is a claim on its way to a sandbox.
type order struct {
	warmpool.Claim
	nonce   string // one for the whole claim: it goes to one sandbox
	request string
}

// obtain gets a Sandbox for o, and says how.
func (b *Backend) obtain(ctx context.Context, set *set, o order) (*v1alpha1.Sandbox, string, error) {
	w := b.shelf.line(set.UID, o.Nodes, func(delta int) { b.cfg.Observer.Waiting(set.Name, delta) })
	defer w.leave()
	within, cancel := context.WithCancel(ctx)
	defer cancel() // ends a cold sandbox that came too late
	place := w.want()
	b.cfg.Observer.Stock(set.Name, place == 0)
	var (
		ready <-chan made
		cold  bool
	)
	for {
		if place > 0 && !cold {
			if reason := set.template.Reason; reason != "" {
				return nil, kindWarm, unfillable(set, reason)
			}
			if place > set.refill() || o.Nodes != nil { // what the controller is making may get to any node
				ready, cold = b.makeCold(within, set, o), true
			}
		}
		select {
		case got := <-w.got:
			if place > 0 && !b.undisputed(ctx, got) {
				place = w.want()
				continue
			}
			sb, err := b.take(ctx, got, o)
			if !errors.Is(err, errTaken) {
				return sb, kindWarm, err
			}
			b.cfg.Observer.Conflict(set.Name)
			place = w.want()
		case m := <-ready:
			if m.err == nil || ctx.Err() == nil {
				return m.sb, kindCold, m.err // the next one would fail too, and stock of the same template is no likelier
			}
			ready = nil
		case <-ctx.Done():
			if latest := b.sets.of(set.pool()); latest != nil && latest.template.Reason != "" {
				return nil, kindWarm, unfillable(set, latest.template.Reason)
			}
			return nil, kindWarm, exhausted(set, o, ctx.Err())
		}
	}
}

// dispute is how long at most a claim that has waited in line lets those of other replicas go first.
const dispute = 100 * time.Millisecond

// undisputed waits for a random part of dispute, and says whether the candidate is free still. In a drought somebody waits at every replica,
// and all learn of new stock in the same moment: most of their writes would be for nothing.
func (b *Backend) undisputed(ctx context.Context, got candidate) bool {
	timer := b.cfg.Clock.NewTimer(rand.N(dispute))
	defer timer.Stop()
	select {
	case <-timer.C():
	case <-ctx.Done(): // take says so
	}
	return b.shelf.holds(got)
}

// take writes o into a piece of stock: the one write of a warm claim.
func (b *Backend) take(ctx context.Context, got candidate, o order) (*v1alpha1.Sandbox, error) {
	if err := ctx.Err(); err != nil {
		b.shelf.back(got, false)
		return nil, &warmpool.Error{Code: warmpool.Unavailable, Message: "the request ended before a sandbox was taken", Err: err}
	}
	body, err := b.claimPatch(got.sb, o)
	if err == nil {
		err = fits(got.sb, o)
	}
	if err != nil {
		b.shelf.back(got, false)
		return nil, err
	}
	sb := &v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: got.sb.Namespace, Name: got.sb.Name}}
	b.starts.add(idOf(got.sb)) // before anybody can see that it is claimed
	err = b.cfg.Client.Patch(ctx, sb, client.RawPatch(types.MergePatchType, body))
	if err == nil {
		sb.ManagedFields = nil
		b.shelf.taken(got, sb)
		return sb, nil
	}
	b.starts.drop(idOf(got.sb))
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		b.shelf.back(got, true)
		return nil, errTaken
	case refused(err):
		b.shelf.back(got, false)
		return nil, unwritable(err)
	}
	// The answer is lost; the write may have come through.
	b.work.Go(func() { b.settle(got, o.nonce) })
	return nil, unwritable(err)
}

// claimPatch makes a Sandbox the claim's. The resource version in it makes the write fail when anything has changed meanwhile.
func (b *Backend) claimPatch(sb *v1alpha1.Sandbox, o order) ([]byte, error) {
	claim, err := b.claim(idOf(sb), o)
	if err != nil {
		return nil, err
	}
	now := b.cfg.Clock.Now()
	spec := map[string]any{"claim": claim, "shutdownTime": deadline(now.Add(o.Timeout), now)}
	if brought := append(template.Asked(sb.Spec.Volumes, true), intent(o.Mounts)...); len(brought) > 0 {
		spec["mounts"] = append(slices.Clone(sb.Spec.Mounts), requested(brought, claim.Time)...)
	}
	labels := map[string]string{v1alpha1.LabelClaimed: "true"}
	if o.IdempotencyKey != "" {
		labels[v1alpha1.LabelIdempotency] = b.digest(o.Principal, o.IdempotencyKey)
	}
	var owners any // null: none are left
	if rest := otherOwners(sb); len(rest) > 0 {
		owners = rest
	}
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": sb.ResourceVersion, "uid": sb.UID, "labels": labels, "ownerReferences": owners},
		"spec":     spec,
	})
}

// fits refuses a claim whose mounts clash with the volumes that a piece of stock has of its pool. What the pool has now was looked at
// before: this one was made earlier, and is about to be replaced.
func fits(sb *v1alpha1.Sandbox, o order) error {
	if len(sb.Spec.Volumes) == 0 {
		return nil
	}
	there := specs(sb)
	for _, m := range template.Asked(sb.Spec.Volumes, true) {
		there = append(there, template.Spec(m))
	}
	for _, m := range o.Mounts {
		if err := start.Beside(there, m); err != nil {
			return &warmpool.Error{
				Code: warmpool.Unavailable, RetryAfter: 2 * time.Second, Err: err,
				Message: "the volumes of this template have just been changed, and its sandboxes are being replaced; try again",
			}
		}
	}
	return nil
}

func otherOwners(sb *v1alpha1.Sandbox) (out []metav1.OwnerReference) {
	for _, ref := range sb.OwnerReferences {
		if !isSet(ref) {
			out = append(out, ref)
		}
	}
	return out
}

// claim is o as it is written for one sandbox.
func (b *Backend) claim(id warmpool.ID, o order) (*v1alpha1.Claim, error) {
	sealed, err := b.cfg.Keys.Seal(id, o.nonce, o.Env)
	if err != nil {
		return nil, err
	}
	return &v1alpha1.Claim{
		Principal: v1alpha1.Principal{Team: o.Principal.Team, Key: o.Principal.Key},
		Nonce:     o.nonce, KeyID: b.cfg.Keys.ID, Time: metav1.NewMicroTime(b.cfg.Clock.Now()),
		Metadata: o.Metadata, SealedEnv: sealed, Timeout: int64(o.Timeout / time.Second), Request: o.request,
	}, nil
}

// settle finds out what became of a claim whose answer was lost. A sandbox that was claimed for nobody is ended.
func (b *Backend) settle(got candidate, nonce string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*undo)
	defer cancel()
	ticker := b.cfg.Clock.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		var sb v1alpha1.Sandbox
		err := b.cfg.Client.Get(ctx, client.ObjectKeyFromObject(got.sb), &sb)
		switch {
		case apierrors.IsNotFound(err):
			b.shelf.back(got, true)
			return
		case err == nil && (sb.UID != got.sb.UID || sb.Spec.Claim == nil || sb.Spec.Claim.Nonce != nonce):
			b.shelf.back(got, sb.ResourceVersion != got.sb.ResourceVersion)
			return
		case err == nil:
			if err = b.delete(ctx, &sb); err == nil {
				b.cfg.Log.Warn("a claim's answer was lost; its sandbox was ended", "sandbox", idOf(&sb))
				b.shelf.back(got, true)
				return
			}
		}
		select {
		case <-ticker.C():
			continue
		case <-ctx.Done():
		case <-b.stopped:
		}
		// If the write came through, the next try of this candidate meets a conflict.
		b.shelf.back(got, false)
		b.cfg.Log.Error("a claim's answer was lost and nothing could be learned of it; its deadline ends the sandbox", "sandbox", idOf(got.sb), "error", err)
		return
	}
}

// refused says whether the API server has certainly not done what it was asked.
func refused(err error) bool {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" { // there was no connection to ask on
		return true
	}
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) ||
		apierrors.IsTooManyRequests(err) || apierrors.IsRequestEntityTooLargeError(err)
}

// unwritable is the error of a request that the API server does not take.
func unwritable(err error) error {
	switch {
	case apierrors.IsInvalid(err), apierrors.IsRequestEntityTooLargeError(err):
		return &warmpool.Error{Code: warmpool.Invalid, Message: "the request is too large to be kept: less metadata, fewer variables or mounts", Err: err}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &warmpool.Error{Code: warmpool.Unavailable, Message: "the request ended before a sandbox was taken", Err: err}
	}
	return &warmpool.Error{Code: warmpool.Unavailable, Message: "the cluster's API server does not answer; try again", RetryAfter: 2 * time.Second, Err: err}
}

func exhausted(set *set, o order, why error) error {
	where := ""
	if o.Nodes != nil {
		where = " on the nodes of its volumes"
	}
	return &warmpool.Error{
		Code: warmpool.Exhausted, RetryAfter: 2 * time.Second, Err: why,
		Message: fmt.Sprintf("no sandbox of template '%s' is free%s and none could be made in time; try again", set.Name, where),
	}
}

// unfillable is the error of a pool that cannot be filled: to wait would be of no use.
func unfillable(set *set, reason string) error {
	return &warmpool.Error{
		Code: warmpool.Unavailable, RetryAfter: 5 * time.Second,
		Message: fmt.Sprintf("no sandbox of template '%s' is free and none can be made: %s", set.Name, reason),
	}
}
