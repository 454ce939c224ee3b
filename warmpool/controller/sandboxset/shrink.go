package sandboxset

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// replaceFailed deletes stock that has failed for good. A template whose sandboxes fail is tried less and less often.
func (p *pass) replaceFailed(ctx context.Context) error {
	m := p.memory
	if m.failures > 0 && m.revision != p.revision && p.revision != "" { // another template deserves a fresh start
		m.failures, m.retryAt = 0, time.Time{}
	}
	if m.failures > 0 && !p.now.Before(m.retryAt) && slices.ContainsFunc(p.stock.ready.current, p.worked) {
		m.failures, m.retryAt = 0, time.Time{}
	}
	gone := map[string]bool{}
	for _, sb := range p.stock.failed {
		gone[string(sb.UID)] = true
		if m.blamed[sb.UID] {
			continue
		}
		m.blamed[sb.UID] = true
		if !p.stale(sb) && failed(sb) { // a node that is lost is not the template's fault
			p.blame("SandboxFailed", fmt.Sprintf("sandbox %s failed: %s", sb.Name, sb.Status.Message))
		}
	}
	for uid := range m.blamed {
		if !gone[string(uid)] && !m.ended[uid] {
			delete(m.blamed, uid)
		}
	}
	return p.end(ctx, p.stock.failed)
}

// worked says whether a sandbox of the set's revision got ready after the last failure of the template, which works after all then.
func (p *pass) worked(sb *v1alpha1.Sandbox) bool {
	c := meta.FindStatusCondition(sb.Status.Conditions, v1alpha1.ConditionReady)
	return c != nil && !c.LastTransitionTime.Time.Before(p.memory.failedAt.Truncate(time.Second))
}

// shrink deletes what is too much.
func (p *pass) shrink(ctx context.Context) error {
	n := p.stock.total() - int(p.set.Spec.Replicas)
	if n <= 0 {
		return nil
	}
	most := p.surplus()
	return p.end(ctx, most[:min(n, len(most))])
}

// roll replaces stock of an older revision, as fast as the update strategy lets it. What is not ready yet is no loss to anybody.
func (p *pass) roll(ctx context.Context) error {
	waiting, ready := p.stock.waiting.stale, p.stock.ready.stale
	budget := p.stock.ready.len() - (int(p.set.Spec.Replicas) - missable(p.set))
	return p.end(ctx, slices.Concat(waiting, ready[:min(max(budget, 0), len(ready))]))
}

// missable is how many of a set's replicas may be missing because of an update.
func missable(set *v1alpha1.SandboxSet) int {
	most := set.Spec.UpdateStrategy.MaxUnavailable
	if most == nil {
		fifth := intstr.FromString("20%")
		most = &fifth
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(most, int(set.Spec.Replicas), false)
	if err != nil {
		return 1
	}
	return max(n, 1)
}

// end deletes stock, each only if it is still what it was: a claim that comes in between wins.
func (p *pass) end(ctx context.Context, all []*v1alpha1.Sandbox) error {
	if len(all) == 0 {
		return nil
	}
	errs := make([]error, len(all))
	var group errgroup.Group
	group.SetLimit(p.r.cfg.Parallel)
	for i, sb := range all {
		group.Go(func() error {
			errs[i] = p.r.cfg.Client.Delete(ctx, sb.DeepCopy(), client.Preconditions{UID: &sb.UID, ResourceVersion: &sb.ResourceVersion})
			return nil
		})
	}
	_ = group.Wait()
	var failed error
	for i, sb := range all {
		switch err := errs[i]; {
		case err == nil, apierrors.IsNotFound(err):
			p.memory.ended[sb.UID] = true
		case apierrors.IsConflict(err):
			p.again(200 * time.Millisecond)
		default:
			failed = errors.Join(failed, fmt.Errorf("delete sandbox %s: %w", sb.Name, err))
		}
	}
	p.drop()
	return failed
}

// drop takes out of the count what has just been deleted.
func (p *pass) drop() {
	s := &p.stock
	for _, list := range []*[]*v1alpha1.Sandbox{&s.ready.stale, &s.ready.current, &s.waiting.stale, &s.waiting.current, &s.failed} {
		*list = slices.DeleteFunc(slices.Clone(*list), func(sb *v1alpha1.Sandbox) bool { return p.memory.ended[sb.UID] })
	}
}
