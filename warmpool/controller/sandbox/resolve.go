package sandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/template"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

// wanted is one of a sandbox's mounts as its spec has it: resolved, or with the reason why it cannot be.
type wanted struct {
	mount.Mount
	fault    string
	asked    *metav1.MicroTime // by a request, which makes it then; nil: by hand
	replaced bool              // another mount was in its place, or of its ID
}

// own is the directory of the injected programs in a sandbox.
const own = "/.sandgate"

// resolve passes the mounts of the spec through the same rules as those of a create request, under the team of the claim.
func (j *job) resolve(ctx context.Context) ([]wanted, error) {
	if len(j.sb.Spec.Mounts) == 0 {
		return nil, nil
	}
	out, specs := j.parse()
	t, err := template.OfSandbox(j.sb)
	if err != nil {
		return nil, err
	}
	var principal warmpool.Principal
	if c := j.sb.Spec.Claim; c != nil {
		principal = warmpool.Principal{Team: c.Principal.Team, Key: c.Principal.Key}
	}
	metadata := j.metadata()
	var faults mount.Faults
	resolved, err := volume.Resolve(ctx, j.cfg.Volumes, volume.Request{
		Principal: principal, Template: t, Metadata: metadata, Specs: specs, Drivers: j.cfg.Policy.Drivers, Plugins: j.cfg.Plugins, Default: j.cfg.Default,
		Node: &j.sb.Status.PodInfo.NodeName,
	})
	if err != nil && !errors.As(err, &faults) {
		return nil, err
	}
	policy := j.cfg.Policy
	policy.Reserved, policy.MaxMounts = slices.Concat(policy.Reserved, t.Reserved, []string{own}), len(specs) // whose excess is judged below
	var refused mount.Faults
	if err := policy.Admit(resolved); err != nil && !errors.As(err, &refused) {
		return nil, err
	}
	faults = append(faults, slices.DeleteFunc(refused, func(f mount.Fault) bool { // what did not resolve has no driver to be judged
		return f.Field == mount.FieldVolume && f.Index < len(resolved) && resolved[f.Index].Driver == ""
	})...)
	for i, m := range resolved {
		if out[i].fault == "" {
			out[i].Mount, out[i].fault = j.whole(m, of(faults, i), metadata)
		}
		if out[i].fault == "" {
			if err := j.cfg.Check(out[i].Mount); err != nil {
				out[i].fault = "cannot be mounted: " + err.Error()
			}
		}
	}
	for _, i := range j.excess(out) {
		if out[i].fault == "" {
			out[i].fault = fmt.Sprintf("a sandbox may have at most %d mounts; %d are asked for: take others out first", j.cfg.Policy.MaxMounts, len(out))
		}
	}
	return out, nil
}

// excess are the indexes of the mounts beyond the limit. Those that have been mounted come first, wherever others are added.
func (j *job) excess(asked []wanted) []int {
	var first, then []int
	for i, w := range asked {
		if k := find(j.sb.Status.Mounts, w.ID); k != nil && k.MountedAt != nil {
			first = append(first, i)
		} else {
			then = append(then, i)
		}
	}
	all := append(first, then...)
	return all[min(len(all), j.cfg.Policy.MaxMounts):]
}

// metadata is the claim's, for placeholders.
func (j *job) metadata() map[string]string {
	if c := j.sb.Spec.Claim; c != nil {
		return c.Metadata
	}
	return nil
}

// parse checks the grammar of the mounts. One that fails is passed on as it is, so that the others keep their places.
func (j *job) parse() (out []wanted, specs []mount.Spec) {
	for _, m := range j.sb.Spec.Mounts {
		spec := template.Spec(m)
		if pod := j.sb.Spec.Template; pod != nil && len(pod.Spec.Containers) > 0 && m.Container == pod.Spec.Containers[0].Name {
			spec.Container = "" // one name for one place
		}
		w := wanted{Mount: mount.Mount{Spec: spec}, asked: m.RequestedAt}
		parsed, err := mount.Parse(spec)
		var faults mount.Faults
		switch {
		case err == nil:
			w.Spec = parsed
		case errors.As(err, &faults):
			w.fault = of(faults, 0)
		default:
			w.fault = err.Error()
		}
		out, specs = append(out, w), append(specs, w.Spec)
	}
	return out, specs
}

// whole fills the placeholders in.
func (j *job) whole(m mount.Mount, fault string, metadata map[string]string) (mount.Mount, string) {
	expanded, err := volume.Expand([]mount.Mount{m}, warmpool.ID(j.sb.Labels[v1alpha1.LabelSandboxID]), metadata)
	if err == nil {
		return expanded[0], fault
	}
	if fault == "" {
		fault = err.Error()
	}
	return m, fault
}

// of are the faults of one mount, in one line.
func of(faults mount.Faults, i int) string {
	var lines []string
	for _, f := range faults {
		if f.Index == i {
			lines = append(lines, string(f.Field)+": "+f.Reason)
		}
	}
	return strings.Join(lines, "; ")
}

// status is w as the status has it, with the handle of a volume that cannot be looked up any more from what was known.
func (w wanted) status(known v1alpha1.MountStatus) v1alpha1.MountStatus {
	out := v1alpha1.MountStatus{
		ID: w.ID, Source: w.source(), VolumeHandle: w.VolumeHandle, Path: w.Target, Container: w.Container, ReadOnly: w.ReadOnly, Driver: w.Driver,
	}
	if out.Driver == "" {
		out.Driver = known.Driver
	}
	if out.VolumeHandle == "" {
		out.VolumeHandle = known.VolumeHandle
	}
	return out
}

// source says which volume w is of.
func (w wanted) source() string { return template.Source(w.Spec) }

// took says whether a request has asked for w in the place of a mount that was seen before: it has taken that one away itself, since
// nothing can be mounted on another mount, and what is there now is w.
func (w wanted) took(known v1alpha1.MountStatus) bool {
	if w.asked == nil || w.Target != known.Path || w.Container != known.Container {
		return false
	}
	return known.MountedAt == nil || w.asked.Truncate(time.Second).After(known.MountedAt.Time) // the store keeps seconds
}

// another says whether a mount that is there is at another place than asked for, or of another volume.
func (w wanted) another(known v1alpha1.MountStatus) bool {
	return template.SourceOf(known) != w.source() || known.Path != w.Target || known.Container != w.Container
}

// differs says whether a mount that is there is another one than asked for.
func (w wanted) differs(known v1alpha1.MountStatus) bool {
	return w.another(known) ||
		known.ReadOnly != w.ReadOnly && (w.ReadOnly || w.VolumeHandle != "")
}
