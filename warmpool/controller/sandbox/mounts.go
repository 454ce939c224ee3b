package sandbox

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/csiagent/clients"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/start"
	"github.com/sandgate-dev/sandgate/warmpool/template"
)

const (
	pending = string(warmpool.MountPending)
	mounted = string(warmpool.MountReady)
	failing = string(warmpool.MountFailed)
)

// mounts brings the volumes in the sandbox to what its spec asks for, and tells of each. Those that are not asked for any more go first:
// others may have their targets.
func (j *job) mounts(ctx context.Context, out *report) {
	if j.quiet(ctx, out) {
		j.renewAll(ctx, out)
		return
	}
	asked, err := j.resolve(ctx)
	if err != nil { // the volumes cannot be looked up: leave everything as it is
		j.cfg.Log.Warn("volumes cannot be looked up", "sandbox", j.sb.Name, "namespace", j.sb.Namespace, "error", err)
		out.mounts, out.missed = j.sb.Status.Mounts, true
		return
	}
	leaving := j.leaving(asked)
	if len(leaving) > 0 && !j.latest(ctx) {
		out.mounts, out.missed = j.sb.Status.Mounts, true
		return
	}
	left := j.leave(ctx, leaving, out)
	results := make([]v1alpha1.MountStatus, len(asked))
	var (
		wg sync.WaitGroup
		mu sync.Mutex
	)
	for i, w := range asked {
		w.replaced = slices.ContainsFunc(leaving, func(m v1alpha1.MountStatus) bool {
			return m.ID == w.ID || m.Path == w.Target && m.Container == w.Container
		})
		if find(left, w.ID) != nil { // its predecessor is still there
			out.missed = true
			continue
		}
		wg.Go(func() {
			st, missed, notes := j.mount(ctx, w)
			mu.Lock()
			defer mu.Unlock()
			results[i] = st
			out.missed = out.missed || missed
			out.notes = append(out.notes, notes...)
		})
	}
	wg.Wait()
	for _, st := range results {
		if st.ID != "" {
			out.mounts = append(out.mounts, st)
		}
	}
	out.mounts = append(out.mounts, left...)
	if !out.missed {
		out.settled = j.sb.Generation
	}
}

// quiet looks at mounts that are all known to be as they are asked for. When they all work there is nothing more to do than to look for
// new credentials.
func (j *job) quiet(ctx context.Context, out *report) bool {
	known := j.sb.Status.Mounts
	if len(known) != len(j.sb.Spec.Mounts) {
		return false
	}
	asked, _ := j.parse()
	for i, w := range asked {
		k := find(known, w.ID)
		if k == nil || k.Phase != mounted || w.fault != "" {
			return false
		}
		if w.Mount, w.fault = j.whole(asked[i].Mount, "", j.metadata()); w.fault != "" || w.differs(*k) {
			return false
		}
		if w.ReadOnly != k.ReadOnly && j.settled != j.sb.Generation { // be it the volume's owner who wants it so, or somebody has lifted it
			return false
		}
	}
	healths := make([]node.Health, len(known))
	var wg sync.WaitGroup
	for i, k := range known {
		wg.Go(func() {
			if h, err := j.health(ctx, j.sb, k); err == nil {
				healths[i] = h
			}
		})
	}
	wg.Wait()
	if slices.ContainsFunc(healths, func(h node.Health) bool { return !h.Works() }) {
		return false
	}
	for i, k := range known {
		st := k
		st.Source, st.Verdict, st.Message = template.SourceOf(k), string(healths[i].Verdict), healths[i].Message
		out.mounts = append(out.mounts, st)
		out.notes = append(out.notes, news(k, st)...)
	}
	return true
}

// latest says whether the Sandbox is what this chore goes by. A request may have put another mount where one is leaving.
func (j *job) latest(ctx context.Context) bool {
	var now v1alpha1.Sandbox
	err := j.cfg.Live.Get(ctx, client.ObjectKeyFromObject(j.sb), &now)
	return err == nil && now.UID == j.sb.UID && now.Generation == j.sb.Generation
}

// leaving are the mounts that are known of and not asked for, or not as they are.
func (j *job) leaving(asked []wanted) (out []v1alpha1.MountStatus) {
	for _, known := range j.sb.Status.Mounts {
		if slices.ContainsFunc(asked, func(w wanted) bool { return w.took(known) && (w.ID != known.ID || w.differs(known)) }) {
			continue
		}
		i := slices.IndexFunc(asked, func(w wanted) bool { return w.ID == known.ID })
		if i < 0 || asked[i].differs(known) {
			out = append(out, known)
		}
	}
	return out
}

// leave takes mounts away, and returns those that could not be.
func (j *job) leave(ctx context.Context, leaving []v1alpha1.MountStatus, out *report) (left []v1alpha1.MountStatus) {
	for _, m := range leaving {
		if m.VolumeHandle == "" { // it never was one
			continue
		}
		err := j.cfg.Fitter.Unpublish(ctx, j.sb, m)
		switch {
		case err == nil, errors.Is(err, mount.ErrNotFound):
		case errors.Is(err, node.ErrDataLoss):
			out.notes = append(out.notes, note{"DataLoss", "volume " + m.Source + " at " + m.Path + " was unmounted, but its last writes may be missing"})
		default:
			m.Message = "is being unmounted: " + words(err)
			left, out.missed = append(left, m), true
		}
	}
	return left
}

// mount looks at one mount and makes it where it is missing and nobody else's business.
func (j *job) mount(ctx context.Context, w wanted) (st v1alpha1.MountStatus, missed bool, notes []note) {
	known := v1alpha1.MountStatus{Phase: pending}
	if k := find(j.sb.Status.Mounts, w.ID); k != nil && !w.replaced && (!w.took(*k) || !w.differs(*k)) {
		known = *k
	}
	st = w.status(known)
	var health node.Health
	if st.VolumeHandle != "" {
		var err error
		health, err = j.health(ctx, j.sb, st)
		switch {
		case err == nil && health.Works():
			st = j.up(st, known, health)
			return st, false, append(j.renew(ctx, w), news(known, st)...)
		case err != nil && !errors.Is(err, mount.ErrNotFound): // the agent cannot tell: what was known holds
			st.Phase, st.Verdict, st.Message, st.MountedAt = known.Phase, known.Verdict, words(err), known.MountedAt
			if errors.Is(err, channel.ErrTooOld) {
				st.Phase, st.Verdict = failing, ""
			}
			return st, true, fresh(known, st)
		}
	}
	st.Verdict = gone(known, health)
	switch {
	case w.fault != "":
		st.Phase, st.Message = failing, w.fault
		return st, true, fresh(known, st)
	case !j.ours(known, w): // the request that claimed the sandbox is at it
		st.Phase, st.Verdict = pending, ""
		return st, true, nil
	}
	if err := j.cfg.Fitter.Publish(ctx, j.sb, w.Mount); err != nil {
		j.cfg.Log.Warn("volume could not be mounted", "sandbox", j.sb.Name, "namespace", j.sb.Namespace, "mount", w.ID, "error", err)
		st.Phase, st.Message, st.MountedAt = failing, words(start.Volume(w.Mount, err)), known.MountedAt
		if errors.Is(err, channel.ErrUnreachable) || errors.Is(err, channel.ErrTooOld) {
			st.Message = words(err)
		}
		return st, true, fresh(known, st)
	}
	j.given.put(w.ID, digest(w.Secret))
	if health.Verdict == node.VerdictHung { // the agent has what it takes to replace its client, but may think it too early
		return j.hung(ctx, st, known)
	}
	st.Phase, st.Verdict, st.Message, st.MountedAt = mounted, string(node.VerdictLive), "", j.stamp()
	if known.Phase == mounted {
		notes = []note{{"MountRepaired", "volume " + st.Source + " at " + st.Path + " was gone and is mounted again"}}
	}
	return st, false, notes
}

// gone is the verdict on a mount that does not work: what the agent has seen, or that it is dead when the agent does not know it any more. One
// that never was has none.
func gone(known v1alpha1.MountStatus, h node.Health) string {
	if h.Verdict == "" && (known.Phase == mounted || known.Verdict != "") {
		return string(node.VerdictDead)
	}
	return string(h.Verdict)
}

// hung looks again at a mount that did not answer, and stays where it is.
func (j *job) hung(ctx context.Context, st, known v1alpha1.MountStatus) (v1alpha1.MountStatus, bool, []note) {
	h, err := j.health(ctx, j.sb, st)
	if err == nil && h.Works() {
		st = j.up(st, known, h)
		return st, false, news(known, st)
	}
	st.Phase, st.Message, st.MountedAt = failing, h.Message, known.MountedAt
	if err != nil {
		st.Message = words(err)
	} else {
		st.Verdict = string(h.Verdict)
	}
	return st, true, news(known, st)
}

// health is what the agent says of a mount. It cannot see how another container of its pod has ended; the kubelet has told that.
func (j *job) health(ctx context.Context, sb *v1alpha1.Sandbox, m v1alpha1.MountStatus) (node.Health, error) {
	h, err := j.cfg.Fitter.Health(ctx, sb, m)
	if j.killed != "" && strings.Contains(h.Message, clients.ErrContainerEnded.Error()) {
		h.Message += ": " + j.killed
	}
	return h, err
}

// ours says whether a missing mount is for us to make: not while the request that asked for it may still be making it.
func (j *job) ours(known v1alpha1.MountStatus, w wanted) bool {
	return known.Phase != pending || w.replaced || w.asked == nil || j.now.Sub(w.asked.Time).Abs() >= j.cfg.Times.Create
}

// up is the status of a mount that works.
func (j *job) up(st, known v1alpha1.MountStatus, h node.Health) v1alpha1.MountStatus {
	st.Phase, st.Verdict, st.Message, st.MountedAt = mounted, string(h.Verdict), h.Message, known.MountedAt
	if known.Phase != mounted || st.MountedAt == nil {
		st.MountedAt = j.stamp()
	}
	return st
}

// stamp is now as it is read back from the store, which keeps seconds.
func (j *job) stamp() *metav1.Time {
	now := metav1.NewTime(j.now.Truncate(time.Second))
	return &now
}

// news is the event of a mount whose health has changed, or that has been healed before anybody has looked.
func news(known, now v1alpha1.MountStatus) []note {
	if known.Phase == pending && now.Message == "" || known.Phase == now.Phase && known.Message == now.Message {
		return nil
	}
	reason, message := "MountRecovered", "works"
	switch {
	case now.Verdict == string(node.VerdictHung):
		reason = "MountHung"
	case now.Phase == failing:
		reason = "MountFailed"
	case now.Verdict == string(node.VerdictSlow):
		reason = "MountSlow"
	case now.Message != "":
		reason = "MountHealed"
	}
	if now.Message != "" {
		message = now.Message
	}
	return []note{{reason, "volume " + now.Source + " at " + now.Path + ": " + message}}
}

// fresh is the event of a mount that does not work, unless it was told of already.
func fresh(known, now v1alpha1.MountStatus) []note {
	if now.Phase != failing || known.Phase == failing && known.Message == now.Message {
		return nil
	}
	return []note{{"MountFailed", "volume " + now.Source + " at " + now.Path + ": " + now.Message}}
}

// words is an error as the sandbox's owner reads it.
func words(err error) string {
	var coded *warmpool.Error
	switch {
	case errors.As(err, &coded):
		return coded.Message
	case errors.Is(err, channel.ErrTooOld):
		return channel.ErrTooOld.Error()
	case errors.Is(err, channel.ErrNotReady):
		return channel.ErrNotReady.Error()
	case errors.Is(err, channel.ErrUnreachable):
		return channel.ErrUnreachable.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return "the agent did not answer in time"
	}
	for _, kind := range []error{mount.ErrInvalid, mount.ErrDenied, mount.ErrUnavailable, node.ErrConflict} {
		if errors.Is(err, kind) {
			return err.Error()
		}
	}
	return "internal error; the agent's log has the reason"
}
