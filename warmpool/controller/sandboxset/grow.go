package sandboxset

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/template"
)

// grow makes what is missing, as much at once as the set allows. What was asked for without an answer is asked for again under the same
// name first: if it is there already, nothing is made twice.
func (p *pass) grow(ctx context.Context) error {
	var asked []*made
	for _, x := range p.memory.made {
		if !x.sure {
			asked = append(asked, x)
		}
	}
	for range p.missing() {
		x := &made{sb: p.sandbox(), at: p.now}
		p.memory.made[x.sb.Name] = x
		p.stock.unseen++
		asked = append(asked, x)
	}
	errs := make([]error, len(asked))
	var group errgroup.Group
	group.SetLimit(p.r.cfg.Parallel)
	for i, x := range asked {
		group.Go(func() error {
			errs[i] = p.r.cfg.Client.Create(ctx, x.sb.DeepCopy())
			return nil
		})
	}
	_ = group.Wait()
	return p.settle(asked, errs)
}

// settle learns what came of creations.
func (p *pass) settle(asked []*made, errs []error) error {
	var lost error
	for i, x := range asked {
		err := errs[i]
		switch {
		case err == nil, apierrors.IsAlreadyExists(err): // names are random: what exists is what was made before the answer was lost
			x.sure, x.at = true, p.now
		case refused(err):
			delete(p.memory.made, x.sb.Name)
			p.stock.unseen--
			p.refused = err.Error()
		default:
			lost = fmt.Errorf("make sandbox %s: %w", x.sb.Name, err)
		}
	}
	if p.refused != "" {
		p.blame("CreateRefused", p.refused)
	}
	return lost
}

// refused says whether the API server has certainly not made what it was asked for.
func refused(err error) bool {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return true
	}
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) ||
		apierrors.IsTooManyRequests(err) || apierrors.IsRequestEntityTooLargeError(err) || apierrors.IsNotFound(err)
}

// missing is how many are to be made now.
func (p *pass) missing() int {
	n := int(p.set.Spec.Replicas) - p.stock.total()
	making := p.stock.waiting.len() + p.stock.unseen
	n = min(n, inTheMaking(p.set)-making)
	if p.memory.failures == 0 || n <= 0 {
		return max(n, 0)
	}
	// The template fails: one at a time is tried, and less and less often.
	if left := p.memory.retryAt.Sub(p.now); left > 0 {
		p.again(left)
		return 0
	}
	if making > 0 {
		return 0
	}
	return 1
}

// inTheMaking is how many of a set may be in the making at once.
func inTheMaking(set *v1alpha1.SandboxSet) int {
	most := set.Spec.ScaleStrategy.MaxUnavailable
	if most == nil {
		return int(set.Spec.Replicas)
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(most, int(set.Spec.Replicas), true)
	if err != nil {
		return int(set.Spec.Replicas)
	}
	return max(n, 1)
}

// sandbox is a new piece of stock.
func (p *pass) sandbox() *v1alpha1.Sandbox {
	id := warmpool.NewID()
	set := p.set
	return &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: set.Namespace, Name: nameOf(set.Name, id), Finalizers: []string{v1alpha1.FinalizerMounts},
			Labels: map[string]string{
				v1alpha1.LabelSandboxID: string(id), v1alpha1.LabelPool: set.Name, v1alpha1.LabelTemplate: set.Name,
				v1alpha1.LabelRevision: p.revision,
			},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, v1alpha1.GroupVersion.WithKind("SandboxSet"))},
		},
		Spec: v1alpha1.SandboxSpec{
			Runtimes: set.Spec.Runtimes, Template: set.Spec.Template.DeepCopy(), PersistentContents: set.Spec.PersistentContents,
			Volumes: set.Spec.Volumes, Mounts: template.Asked(set.Spec.Volumes, false),
		},
	}
}

// nameOf is the name of a set's sandbox, and of its pod. Long set names are cut: a pod's name is its host name, too.
func nameOf(set string, id warmpool.ID) string {
	const most = 63 - 1 - 10
	if len(set) > most {
		set = strings.TrimRight(set[:most], "-.")
	}
	return set + "-" + string(id[1:11])
}

const (
	// firstPause and longestPause are between two tries of a template that fails.
	firstPause   = time.Second
	longestPause = 5 * time.Minute
)

// blame counts one failure of the template. Several at once are one: they have the same cause.
func (p *pass) blame(reason, message string) {
	m := p.memory
	m.reason, m.message, m.revision, m.failedAt = reason, message, p.revision, p.now
	if p.now.Before(m.retryAt) {
		return
	}
	m.failures++
	pause := longestPause
	if m.failures < 10 {
		pause = min(firstPause<<(m.failures-1), longestPause)
	}
	m.retryAt = p.now.Add(pause)
	p.again(pause)
	p.warn(reason, "%s (next try in %s)", message, pause)
}
