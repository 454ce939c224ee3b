package sandbox

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// fit keeps what the sandbox was given at its claim: its daemon's initialisation and its volumes.
func (p *pass) fit(pod *corev1.Pod) {
	sb := p.sb
	if !p.wanted(pod) {
		return
	}
	m := p.memory
	of := basis(sb, pod)
	now := p.now
	m.mu.Lock()
	if of != m.of {
		m.due = now
	}
	left, running, unwritten := m.due.Sub(now), m.running || m.report != nil && !m.seen, m.report != nil
	m.mu.Unlock()
	switch {
	case running:
		return // it wakes us
	case left > 0:
		p.again(left)
		return
	case unwritten:
		p.waits = true
		return
	}
	job := p.job(pod, of)
	p.r.chores.run(client.ObjectKeyFromObject(sb), m, true, job.run)
	p.again(p.r.cfg.Times.Look) // should it not have been started
}

// recall makes sure that it is known which mounts may be in the sandbox. Who looked after it before this process may have written them a
// moment ago.
func (p *pass) recall(ctx context.Context) error {
	sb, m := p.sb, p.memory
	if m.knows() || sb.Spec.Claim == nil && len(sb.Spec.Mounts) == 0 && len(sb.Status.Mounts) == 0 {
		return nil
	}
	var now v1alpha1.Sandbox
	if err := p.r.cfg.Live.Get(ctx, client.ObjectKeyFromObject(sb), &now); err != nil {
		return fmt.Errorf("read %s: %w", sb.Name, err)
	}
	if now.UID != sb.UID {
		return apierrors.NewNotFound(v1alpha1.GroupVersion.WithResource("sandboxes").GroupResource(), sb.Name)
	}
	m.recall(now.Status.Mounts)
	return nil
}

// mounts are those that may be in the sandbox.
func (p *pass) mounts() []v1alpha1.MountStatus {
	m := p.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.recalled {
		return m.mounts
	}
	return p.sb.Status.Mounts
}

// wanted says whether there is anything to keep, and a container to keep it in.
func (p *pass) wanted(pod *corev1.Pod) bool {
	sb := p.sb
	if pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning || pod.Status.PodIP == "" || mainContainer(pod) == "" {
		return false
	}
	if len(sb.Spec.Mounts) > 0 || len(sb.Status.Mounts) > 0 || len(p.mounts()) > 0 {
		return sb.Spec.Claim != nil || ready(pod) // before that its agent has no way into the container
	}
	return sb.Spec.Claim != nil && has(sb, v1alpha1.RuntimeAgent)
}

// basis names what a chore is about. Another one means to look at once.
func basis(sb *v1alpha1.Sandbox, pod *corev1.Pod) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d %t", pod.UID, sb.Generation, sb.Spec.Claim != nil)
	for _, s := range statuses(pod) {
		if s.State.Running != nil {
			fmt.Fprintf(&b, " %s=%s", s.Name, s.ContainerID)
		}
	}
	return b.String()
}

// apply takes over what came of a chore.
func (p *pass) apply(of string) {
	r := p.memory.peek()
	if r == nil || r.detached {
		return
	}
	s := &p.sb.Status
	s.Mounts = copied(r.mounts)
	if r.started != "" {
		s.StartedContainer = r.started
	}
	s.MountSummary = summary(s.Mounts, len(p.sb.Spec.Mounts))
	for _, n := range r.notes {
		p.warn(n.reason, "Mount", n.message)
	}
	m := p.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.applied { // the status could not be written the last time
		return
	}
	r.notes, r.applied = nil, true
	if r.inited {
		m.inited = p.now
	}
	m.of = r.of
	m.misses++
	if !r.missed {
		m.misses = 0
	}
	m.due = p.now.Add(p.pause(m.misses, r.mounts))
	if r.of != of {
		m.due = p.now
	}
}

func copied(mounts []v1alpha1.MountStatus) []v1alpha1.MountStatus {
	return (&v1alpha1.SandboxStatus{Mounts: mounts}).DeepCopy().Mounts
}

// pause is how long until the next look.
func (p *pass) pause(misses int, mounts []v1alpha1.MountStatus) time.Duration {
	t := p.r.cfg.Times
	switch {
	case misses > 0:
		return min(time.Second<<min(misses-1, 5), 30*time.Second)
	case len(mounts) > 0 && p.sb.Spec.Claim != nil:
		return t.Look
	}
	return t.Init
}

// job is one chore: a snapshot of all that it needs.
type job struct {
	cfg       *Config
	sb        *v1alpha1.Sandbox
	of        string
	container string
	now       time.Time
	init      bool // the daemon must be initialised
	must      bool // and the container is not fitted out before it is
	given     *given
	settled   int64  // the generation for which all was found to be as asked
	killed    string // the container beside the sandbox's that ended last, and by what limit, if that was for its memory
}

func (p *pass) job(pod *corev1.Pod, of string) *job {
	sb := p.sb
	j := &job{cfg: &p.r.cfg, sb: sb.DeepCopy(), of: of, container: mainContainer(pod), now: p.now, killed: killed(pod), given: &p.memory.given}
	j.sb.Status.Mounts, j.settled = copied(p.mounts()), p.memory.settledAt()
	if sb.Spec.Claim == nil || !has(sb, v1alpha1.RuntimeAgent) {
		return j
	}
	p.memory.mu.Lock()
	inited := p.memory.inited
	p.memory.mu.Unlock()
	young := p.now.Sub(sb.Spec.Claim.Time.Time) < p.r.cfg.Times.Create
	switch {
	case sb.Status.StartedContainer != j.container && (sb.Status.StartedContainer != "" || !young):
		j.init, j.must = true, true
	case young:
	case p.now.Sub(inited) >= p.r.cfg.Times.Init:
		j.init = true
	}
	return j
}

// chore bounds one.
const chore = 30 * time.Second

// run does it.
func (j *job) run(ctx context.Context) report {
	ctx, cancel := context.WithTimeout(ctx, chore)
	defer cancel()
	out := report{of: j.of, started: j.container}
	if j.init {
		if err := j.initialise(ctx); err == nil {
			out.inited = true
		} else if j.must {
			out.missed, out.started = true, j.sb.Status.StartedContainer
			out.notes = append(out.notes, j.unfit(err)...)
		}
	}
	j.mounts(ctx, &out)
	return out
}
