package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/template"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

// finish ends a deleted sandbox: its volumes are flushed and detached, then its pod goes, then the Sandbox. Each step is bounded.
func (p *pass) finish(ctx context.Context) error {
	if !slices.Contains(p.sb.Finalizers, v1alpha1.FinalizerMounts) {
		return nil
	}
	pod, err := p.doomed(ctx)
	if err != nil {
		return err
	}
	if pod == nil {
		return p.release(ctx)
	}
	if err := p.terminating(ctx); err != nil {
		return err
	}
	if pod.DeletionTimestamp == nil && p.memory.dismissed != pod.UID { // else the cache may not have heard of it yet
		if !p.detached(pod) {
			return nil
		}
		err := p.r.cfg.Client.Delete(ctx, pod, client.Preconditions{UID: &pod.UID})
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete pod %s: %w", pod.Name, err)
		}
		p.memory.dismissed = pod.UID
	}
	return p.outwait(ctx, pod)
}

// doomed is the pod that is to go, nil when there is none.
func (p *pass) doomed(ctx context.Context) (*corev1.Pod, error) {
	var pod corev1.Pod
	err := p.r.cfg.Client.Get(ctx, client.ObjectKeyFromObject(p.sb), &pod)
	if apierrors.IsNotFound(err) && !p.memory.isDetached() { // the cache may not have heard of it yet
		err = p.r.cfg.Live.Get(ctx, client.ObjectKeyFromObject(p.sb), &pod)
	}
	if apierrors.IsNotFound(err) || err == nil && !owned(&pod, p.sb) {
		return nil, nil
	}
	return &pod, err
}

// terminating tells in the status of a sandbox that was somebody's, and takes its time to end. Of stock it would be one more write for
// nothing.
func (p *pass) terminating(ctx context.Context) error {
	if p.sb.Spec.Claim == nil || p.sb.Status.State == string(warmpool.Terminating) {
		return nil
	}
	if left := brief - p.deleted(); left > 0 {
		p.again(left)
		return nil
	}
	p.sb.Status.Phase, p.sb.Status.State = v1alpha1.PhaseTerminating, string(warmpool.Terminating)
	return p.write(ctx)
}

// detached says whether the sandbox's volumes are off, or have had their time.
func (p *pass) detached(pod *corev1.Pod) bool {
	m := p.memory
	if r := m.peek(); r != nil {
		if r.detached {
			for _, n := range r.notes {
				p.warn(n.reason, "Detach", n.message)
			}
			m.detach()
		}
		m.taken() // what came of an earlier chore says nothing any more
	}
	if m.isDetached() {
		return true
	}
	if pod.Status.Phase != corev1.PodRunning || pod.Status.PodIP == "" {
		m.detach()
		return true
	}
	left := p.r.cfg.Times.Detach - p.deleted()
	if left < -lostTime { // the chore has lost its way
		p.warn(abandonedReason, "Detach", "the volumes could not be detached in time; the pod goes all the same, and last writes may be missing")
		m.detach()
		m.end()
		return true
	}
	if m.giveUp() { // it wakes us when it has ended
		p.again(time.Second)
		return false
	}
	known := copied(p.mounts()) // also to a chore that was given up
	if len(known) == 0 && len(p.sb.Spec.Mounts) == 0 {
		m.detach()
		return true
	}
	d := &detaching{cfg: &p.r.cfg, sb: p.sb.DeepCopy(), known: known, left: max(left, time.Second)}
	p.r.chores.run(client.ObjectKeyFromObject(p.sb), m, false, d.run)
	p.again(max(left+lostTime+time.Second, time.Second))
	return false
}

// lostTime is how much longer than its time a chore may take to say so.
const lostTime = 2 * time.Second

// deleted is for how long the sandbox has been deleted, by one clock: the API server's may be another one than ours.
func (p *pass) deleted() time.Duration {
	m := p.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.deleted.IsZero() {
		m.deleted = p.now
	}
	return p.now.Sub(m.deleted)
}

func (m *memory) detach() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.detached = true
}

func (m *memory) isDetached() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.detached
}

// outwait waits for the pod to go, but not for ever.
func (p *pass) outwait(ctx context.Context, pod *corev1.Pod) error {
	t := p.r.cfg.Times
	grace := 30 * time.Second
	if pod.DeletionGracePeriodSeconds != nil {
		grace = time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
	} else if pod.Spec.TerminationGracePeriodSeconds != nil {
		grace = time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second
	}
	left := t.Detach + grace + t.Linger - p.deleted()
	if left > 0 {
		p.again(left)
		return nil
	}
	p.warn("PodAbandoned", "Delete", "its pod does not end, likely because its node is gone; the Sandbox goes without it")
	return p.release(ctx)
}

// release lets the Sandbox go.
func (p *pass) release(ctx context.Context) error {
	var left any
	if rest := slices.DeleteFunc(slices.Clone(p.sb.Finalizers), func(f string) bool { return f == v1alpha1.FinalizerMounts }); len(rest) > 0 {
		left = rest
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"resourceVersion": p.sb.ResourceVersion, "uid": p.sb.UID, "finalizers": left,
	}})
	if err != nil {
		return err
	}
	if err := p.r.cfg.Client.Patch(ctx, p.sb, client.RawPatch(types.MergePatchType, body)); client.IgnoreNotFound(err) != nil {
		return err
	}
	p.r.cfg.Fitter.Drop(p.sb)
	p.r.chores.forget(client.ObjectKeyFromObject(p.sb))
	return nil
}

// detaching is the chore of a sandbox's last volumes.
type detaching struct {
	cfg   *Config
	sb    *v1alpha1.Sandbox
	known []v1alpha1.MountStatus // what somebody has seen
	left  time.Duration
}

// run unpublishes everything, all at once, as long as there is time.
func (d *detaching) run(ctx context.Context) report {
	within, cancel := context.WithTimeout(ctx, d.left)
	defer cancel()
	all, lost := d.mounts(within)
	notes := make([]note, len(all))
	var wg sync.WaitGroup
	for i, m := range all {
		wg.Go(func() { notes[i] = d.detach(within, m) })
	}
	wg.Wait()
	out := report{detached: true}
	var abandoned []string
	for i, n := range notes {
		switch n.reason {
		case "":
		case abandonedReason:
			abandoned = append(abandoned, all[i].Source+" at "+all[i].Path)
		default:
			out.notes = append(out.notes, n)
		}
	}
	if len(abandoned) > 0 {
		out.notes = append(out.notes, note{abandonedReason, "not detached in time, last writes may be missing: " + strings.Join(abandoned, ", ")})
	}
	if len(lost) > 0 {
		out.notes = append(out.notes, note{abandonedReason, "not detached, for what they are cannot be looked up any more; last writes may be missing: " + strings.Join(lost, ", ")})
	}
	for _, n := range out.notes {
		d.cfg.Log.Warn("volumes of a deleted sandbox", "sandbox", d.sb.Name, "namespace", d.sb.Namespace, "reason", n.reason, "message", n.message)
	}
	return out
}

const abandonedReason = "MountsAbandoned"

// detach takes one volume away, again and again while its agent cannot be reached: it may be restarting.
func (d *detaching) detach(ctx context.Context, m v1alpha1.MountStatus) note {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		err := d.cfg.Fitter.Unpublish(ctx, d.sb, m)
		switch {
		case err == nil, errors.Is(err, mount.ErrNotFound):
			return note{}
		case errors.Is(err, node.ErrDataLoss):
			return note{"DataLoss", "volume " + m.Source + " at " + m.Path + " was detached, but its last writes may be missing"}
		case !errors.Is(err, channel.ErrUnreachable) && !errors.Is(err, mount.ErrUnavailable) && ctx.Err() == nil:
			d.cfg.Log.Warn("volume cannot be detached", "sandbox", d.sb.Name, "mount", m.ID, "error", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return note{abandonedReason, ""}
		}
	}
}

// mounts are those that may be in the sandbox: those that somebody has seen, and those of the spec that were mounted a moment ago, before
// anybody looked. lost are those among them of which nobody can say any more what they are.
func (d *detaching) mounts(ctx context.Context) (out []v1alpha1.MountStatus, lost []string) {
	for _, m := range d.known {
		if m.VolumeHandle != "" { // else it never was one
			out = append(out, m)
		}
	}
	j := &job{cfg: d.cfg, sb: d.sb, now: d.cfg.Clock.Now()}
	asked, _ := j.parse()
	unseen := func(w wanted) bool {
		w.Mount, _ = j.whole(w.Mount, "", j.metadata())
		k := find(d.known, w.ID)
		return k == nil || k.VolumeHandle == "" || w.another(*k)
	}
	if !slices.ContainsFunc(asked, unseen) {
		return out, nil
	}
	resolved, err := j.resolve(ctx)
	if err != nil {
		d.cfg.Log.Warn("volumes cannot be looked up", "sandbox", d.sb.Name, "namespace", d.sb.Namespace, "error", err)
		resolved = asked
	}
	for i, w := range asked {
		switch now := resolved[i]; {
		case !unseen(w):
		case now.VolumeHandle != "":
			out = append(out, now.status(v1alpha1.MountStatus{}))
		case w.asked != nil: // its request may have mounted it; nobody else would have
			if now.VolumeHandle = d.handle(ctx, w.Spec); now.VolumeHandle == "" {
				lost = append(lost, now.source()+" at "+now.Target)
				continue
			}
			out = append(out, now.status(v1alpha1.MountStatus{}))
		}
	}
	return out, lost
}

// handle is a volume's, whoever may mount it by now and whatever has become of its Secret.
func (d *detaching) handle(ctx context.Context, s mount.Spec) string {
	t, err := template.OfSandbox(d.sb)
	if err != nil {
		return ""
	}
	return volume.Handle(ctx, d.cfg.Volumes, t, s)
}
