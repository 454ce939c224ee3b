package sandboxset

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// report writes the status, if it tells something new. Numbers that change with every claim are written at a pace: the API server has
// more important things to do in a burst.
func (p *pass) report(ctx context.Context) error {
	before := p.set.DeepCopy()
	p.status()
	p.tell(before)
	if equality.Semantic.DeepEqual(before.Status, p.set.Status) {
		return nil
	}
	if left := p.r.cfg.Pace - p.now.Sub(p.memory.wrote); left > 0 && !urgent(&before.Status, &p.set.Status) {
		p.again(left)
		return nil
	}
	if err := p.r.cfg.Client.Status().Patch(ctx, p.set, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("write the status: %w", client.IgnoreNotFound(err))
	}
	p.memory.wrote = p.now
	return nil
}

// urgent says whether b tells more than a's numbers.
func urgent(a, b *v1alpha1.SandboxSetStatus) bool {
	quiet := func(c *metav1.Condition) bool { return c.Status == metav1.ConditionTrue || v1alpha1.Passing(c.Reason) }
	x, y := meta.FindStatusCondition(a.Conditions, v1alpha1.ConditionFilled), meta.FindStatusCondition(b.Conditions, v1alpha1.ConditionFilled)
	i, j := meta.FindStatusCondition(a.Conditions, v1alpha1.ConditionInjectionConfigured), meta.FindStatusCondition(b.Conditions, v1alpha1.ConditionInjectionConfigured)
	return a.ObservedGeneration != b.ObservedGeneration || a.UpdateRevision != b.UpdateRevision || x == nil || (i == nil) != (j == nil) ||
		x.Reason != y.Reason && (!quiet(x) || !quiet(y)) ||
		i != nil && (i.Status != j.Status || i.Message != j.Message)
}

func (p *pass) status() {
	s := &p.set.Status
	s.ObservedGeneration = p.set.Generation
	s.Replicas = int32(p.stock.total())
	s.AvailableReplicas = int32(p.stock.ready.len())
	s.ClaimedReplicas = int32(p.stock.claimed)
	if p.revision != "" {
		s.UpdateRevision = p.revision
		s.UpdatedReplicas = int32(len(p.stock.waiting.current) + len(p.stock.ready.current) + p.stock.unseen)
	}
	s.Selector = v1alpha1.LabelPool + "=" + p.set.Name + "," + v1alpha1.LabelClaimed + "!=true"
	p.condition(v1alpha1.ConditionFilled, p.filled())
	if len(p.set.Spec.Runtimes) == 0 {
		meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionInjectionConfigured)
		return
	}
	p.condition(v1alpha1.ConditionInjectionConfigured, p.injectionFault())
}

// condition sets a condition: True without a fault.
func (p *pass) condition(kind string, f *fault) {
	c := metav1.Condition{
		Type: kind, Status: metav1.ConditionTrue, Reason: kind, ObservedGeneration: p.set.Generation, LastTransitionTime: metav1.NewTime(p.now),
	}
	if f != nil {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, f.reason, f.message
	}
	meta.SetStatusCondition(&p.set.Status.Conditions, c)
}

// injectionFault is what is wrong with the injection configuration, be it only with one that has not come into force.
func (p *pass) injectionFault() *fault {
	if p.fault != nil && p.fault.reason == reasonInjection {
		return p.fault
	}
	if text := p.r.cfg.Injection.Fault(); text != "" {
		return &fault{"Invalid", text + "; the last good configuration stays in force"}
	}
	return nil
}

// filled is why the pool is not full, nil when it is.
func (p *pass) filled() *fault {
	replicas, ready, stale := int(p.set.Spec.Replicas), p.stock.ready.len(), len(p.stock.ready.stale)
	switch {
	case p.fault != nil:
		return p.fault
	case ready >= replicas && stale == 0:
		return nil
	case p.memory.failures > 0:
		return &fault{p.memory.reason, p.memory.message}
	}
	if f := p.trouble(); f != nil {
		return f
	}
	count := fmt.Sprintf("%d of %d ready", ready, replicas)
	if stale > 0 {
		return &fault{v1alpha1.ReasonUpdating, fmt.Sprintf("%s, %d of an older revision", count, stale)}
	}
	return &fault{v1alpha1.ReasonFilling, count}
}

// trouble is what is wrong with stock that is not ready, nil as long as some of it is merely in the making.
func (p *pass) trouble() *fault {
	if p.stock.waiting.len() == 0 {
		return nil
	}
	var first *v1alpha1.Sandbox // always the same one, so that the message does not change for nothing
	for _, sb := range slices.Concat(p.stock.waiting.stale, p.stock.waiting.current) {
		if c := meta.FindStatusCondition(sb.Status.Conditions, v1alpha1.ConditionReady); c == nil || c.Reason == v1alpha1.ReasonStarting {
			return nil
		}
		if first == nil || sb.Name < first.Name {
			first = sb
		}
	}
	c := meta.FindStatusCondition(first.Status.Conditions, v1alpha1.ConditionReady)
	return &fault{c.Reason, "sandbox " + first.Name + ": " + c.Message}
}

// tell makes an event of a fault that nobody has been told of.
func (p *pass) tell(before *v1alpha1.SandboxSet) {
	text := ""
	if p.fault != nil {
		text = p.fault.message
	}
	if text != "" && text != p.memory.saidFault {
		had := meta.FindStatusCondition(before.Status.Conditions, v1alpha1.ConditionFilled)
		if had == nil || had.Message != text {
			p.warn(p.fault.reason, "%s", text)
		}
	}
	p.memory.saidFault = text
	now := meta.FindStatusCondition(p.set.Status.Conditions, v1alpha1.ConditionInjectionConfigured)
	had := meta.FindStatusCondition(before.Status.Conditions, v1alpha1.ConditionInjectionConfigured)
	if now != nil && now.Status == metav1.ConditionFalse && text == "" && (had == nil || had.Message != now.Message) {
		p.warn("InjectionInvalid", "%s", now.Message)
	}
	filled := meta.FindStatusCondition(p.set.Status.Conditions, v1alpha1.ConditionFilled)
	was := meta.FindStatusCondition(before.Status.Conditions, v1alpha1.ConditionFilled)
	quiet := []string{v1alpha1.ConditionFilled, v1alpha1.ReasonFilling, v1alpha1.ReasonUpdating}
	if p.fault == nil && p.memory.failures == 0 && !slices.Contains(quiet, filled.Reason) && (was == nil || was.Reason != filled.Reason) {
		p.warn(filled.Reason, "%s", filled.Message)
	}
}
