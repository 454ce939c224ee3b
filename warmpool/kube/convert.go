package kube

import (
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/template"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

// never is the end of a sandbox without a deadline: the last one that every client can read.
var never = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// fresh is how long after its claim the mounts that came with it count as made although the controller has not written of them yet. Who
// knows the sandbox's ID got it from the answer to the create, which is given when they are made.
const fresh = time.Minute

// look is how long the controller may take to look again at a mount that has failed: half of it between two looks, and half for one.
const look = time.Minute

// ended says whether a Sandbox can no longer be found: it is being deleted, or past its deadline.
func ended(sb *v1alpha1.Sandbox, now time.Time) bool {
	return sb.DeletionTimestamp != nil || sb.Spec.ShutdownTime != nil && !now.Before(sb.Spec.ShutdownTime.Time)
}

func idOf(sb *v1alpha1.Sandbox) warmpool.ID { return warmpool.ID(sb.Labels[v1alpha1.LabelSandboxID]) }

// stateOf is a claimed Sandbox's state. That it has not been handed out yet is not written anywhere.
func stateOf(sb *v1alpha1.Sandbox) warmpool.State {
	switch {
	case sb.DeletionTimestamp != nil:
		return warmpool.Terminating
	case sb.Status.Phase == v1alpha1.PhaseFailed, sb.Status.Phase == v1alpha1.PhaseSucceeded, sb.Status.State == string(warmpool.Failed):
		return warmpool.Failed
	}
	return warmpool.Running
}

// state is a claimed Sandbox's as callers of this replica see it.
func (b *Backend) state(sb *v1alpha1.Sandbox) warmpool.State {
	state := stateOf(sb)
	if state == warmpool.Running && b.starts.has(idOf(sb)) {
		return warmpool.Claimed
	}
	return state
}

// view is a claimed Sandbox as callers see it.
func (b *Backend) view(sb *v1alpha1.Sandbox) warmpool.Sandbox {
	claim := sb.Spec.Claim
	out := warmpool.Sandbox{
		ID: idOf(sb), Template: sb.Labels[v1alpha1.LabelPool], State: b.state(sb), StartedAt: claim.Time.Time, EndAt: never,
		Principal: warmpool.Principal{Team: claim.Principal.Team, Key: claim.Principal.Key}, Metadata: maps.Clone(claim.Metadata),
		EnvdVersion: b.cfg.EnvdVersion, AllowInternet: true, Node: sb.Status.PodInfo.NodeName,
	}
	if at := sb.Spec.ShutdownTime; at != nil {
		out.EndAt = at.Time
	}
	if out.State == warmpool.Failed {
		out.Reason = sb.Status.Message
	}
	if claim.KeyID == "" || claim.KeyID == b.cfg.Keys.ID { // another key's token cannot be told
		out.Token = b.cfg.Keys.Token(out.ID, claim.Nonce)
	}
	if set := b.sets.of(poolOf(sb)); set != nil {
		out.Aliases = slices.Clone(set.aliases)
	}
	if t, err := template.OfSandbox(sb); err == nil {
		out.Resources = t.Resources
		t.Aliases, t.EnvdVersion = slices.Clone(out.Aliases), out.EnvdVersion
		out.MadeFrom = t
	}
	out.Mounts = b.mounts(sb, out)
	return out
}

// mounts is what is known of a sandbox's mounts.
func (b *Backend) mounts(sb *v1alpha1.Sandbox, as warmpool.Sandbox) (out []warmpool.MountStatus) {
	notes := b.shelf.notes(sb.UID)
	for n, spec := range specs(sb) {
		st := warmpool.MountStatus{Spec: spec, Phase: warmpool.MountPending}
		known := told(sb, spec)
		own, here := notes[spec.ID]
		switch {
		case here && same(own.Mount, sb.Spec.Mounts[n]) && (known == nil || b.newer(own, *known)):
			st.Phase, st.MountedAt = warmpool.MountReady, own.at
		case known != nil:
			st.Phase, st.Verdict, st.Message = warmpool.MountPhase(known.Phase), warmpool.MountVerdict(known.Verdict), known.Message
			if known.MountedAt != nil {
				st.MountedAt = known.MountedAt.Time
			}
		case as.State == warmpool.Running && sb.Spec.Mounts[n].RequestedAt.Equal(&sb.Spec.Claim.Time) && b.cfg.Clock.Since(as.StartedAt) < fresh:
			st.Phase, st.MountedAt = warmpool.MountReady, as.StartedAt
		}
		if st.Phase == warmpool.MountReady && st.Verdict == "" { // it was read when it was mounted
			st.Verdict = warmpool.MountLive
		}
		out = append(out, st)
	}
	return out
}

// newer says whether a mount was made here after what the status says of it. What failed then may have failed again since, in the same
// words: that counts once the controller must have looked.
func (b *Backend) newer(own noted, known v1alpha1.MountStatus) bool {
	switch warmpool.MountPhase(known.Phase) {
	case warmpool.MountPending: // the controller has not looked yet
		return true
	case warmpool.MountFailed:
		return equality.Semantic.DeepEqual(own.told, known) && b.cfg.Clock.Since(own.at) < look
	}
	return false
}

// told is what the status says of one of specs. nil: nothing yet, or of an earlier mount of that ID.
func told(sb *v1alpha1.Sandbox, spec mount.Spec) *v1alpha1.MountStatus {
	for i := range sb.Status.Mounts {
		known := &sb.Status.Mounts[i]
		if known.ID == spec.ID && known.Path == spec.Target && known.Container == spec.Container &&
			(known.Source == "" || template.SourceOf(*known) == template.Source(spec)) {
			return known
		}
	}
	return nil
}

// specs are a Sandbox's mounts as they are made: with their paths normalised and the placeholders of their sub-paths filled in.
func specs(sb *v1alpha1.Sandbox) (out []mount.Spec) {
	var metadata map[string]string
	if sb.Spec.Claim != nil {
		metadata = sb.Spec.Claim.Metadata
	}
	for _, m := range sb.Spec.Mounts {
		spec := template.Spec(m)
		spec.Container = named(sb, m)
		if parsed, err := mount.Parse(spec); err == nil { // kubectl may have written it
			spec = parsed
		}
		if whole, err := volume.Expand([]mount.Mount{{Spec: spec}}, idOf(sb), metadata); err == nil {
			spec = whole[0].Spec
		}
		out = append(out, spec)
	}
	return out
}

// named is the container of a mount as mounts have it: one place has one name, and that of the first container is empty.
func named(sb *v1alpha1.Sandbox, m v1alpha1.Mount) string {
	if pod := sb.Spec.Template; pod != nil && len(pod.Spec.Containers) > 0 && m.Container == pod.Spec.Containers[0].Name {
		return ""
	}
	return m.Container
}

// intent is specs as they are written.
func intent(specs []mount.Spec) []v1alpha1.Mount {
	out := make([]v1alpha1.Mount, len(specs))
	for i, s := range specs {
		out[i] = template.Mount(s)
	}
	return out
}

// requested are mounts that a request makes, and nobody else while it may be at them.
func requested(mounts []v1alpha1.Mount, at metav1.MicroTime) []v1alpha1.Mount {
	for i := range mounts {
		mounts[i].RequestedAt = &at
	}
	return mounts
}

// deadline is a time as the store keeps it, in whole seconds: not before it, unless it is now or past.
func deadline(at, now time.Time) metav1.Time {
	whole := at.Truncate(time.Second)
	if whole.Before(at) && at.After(now) {
		whole = whole.Add(time.Second)
	}
	return metav1.NewTime(whole)
}

// matches says whether a filter chooses a sandbox.
func matches(s warmpool.Sandbox, f warmpool.Filter) bool {
	switch {
	case f.Team != "" && f.Team != s.Principal.Team,
		f.Template != "" && f.Template != s.Template && !slices.Contains(s.Aliases, f.Template),
		len(f.States) > 0 && !slices.Contains(f.States, s.State):
		return false
	}
	for k, v := range f.Metadata {
		if got, ok := s.Metadata[k]; !ok || got != v {
			return false
		}
	}
	return true
}
