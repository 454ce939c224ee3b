package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

// Check says what Create would refuse of a claim before it claims anything, without claiming: for a dialect that has found
// faults of its own and wants to name all of them together. A spec without a volume is one whose volume is known to be
// faulty; the rest of it is checked.
func (s *Service) Check(ctx context.Context, c warmpool.Claim) error {
	within, cancel := context.WithTimeout(ctx, s.limits.Create)
	defer cancel()
	_, _, _, err := s.mounts(within, c)
	return coded(err)
}

// mounts resolves and admits a claim's mounts, beside the volumes of its template, and says on which nodes all of them are. The error of
// refused ones is warmpool.Invalid around mount.Faults, whose indexes are into c.Mounts.
func (s *Service) mounts(ctx context.Context, c warmpool.Claim) (_ warmpool.Template, _ []mount.Mount, nodes []string, _ error) {
	template, err := s.backend.Template(ctx, c.Template)
	if err != nil || len(c.Mounts) == 0 && len(template.Volumes) == 0 {
		return template, nil, nil, err
	}
	resolved, faults, err := s.resolve(ctx, template, c)
	if err != nil {
		return template, nil, nil, err
	}
	return template, resolved[len(template.Volumes):], volume.Nodes(resolved), refusal(faults.Err())
}

// resolve is mounts for a template that is known, with the faults by themselves. The template's own volumes are judged with them, and come
// first: their places are taken. What is wrong with one of those is no fault of the claim's mounts, but keeps it from its sandbox.
func (s *Service) resolve(ctx context.Context, template warmpool.Template, c warmpool.Claim) ([]mount.Mount, mount.Faults, error) {
	own := len(template.Volumes)
	specs := make([]mount.Spec, own, own+len(c.Mounts))
	for i, v := range template.Volumes {
		specs[i] = v.Spec
	}
	resolved, faults, err := s.judge(ctx, template, c, s.node, append(specs, c.Mounts...))
	if err != nil {
		return nil, nil, err
	}
	var of mount.Faults
	for _, f := range faults {
		if f.Index < own {
			return nil, nil, unfurnished(template, specs[f.Index], f.Reason)
		}
		f.Index -= own
		of = append(of, f)
	}
	return resolved, of, nil
}

// unfurnished is the error of a sandbox whose template has a volume that it cannot have.
func unfurnished(template warmpool.Template, volume mount.Spec, reason string) error {
	return warmpool.Errorf(warmpool.Invalid, "template '%s' brings volume '%s' at %s, which you cannot have: %s", template.Name, volume.ID, volume.Target, reason)
}

// judge resolves and admits mounts for a sandbox of the template; node is the one that it is on, nil while there is no sandbox.
func (s *Service) judge(
	ctx context.Context, template warmpool.Template, c warmpool.Claim, node *string, specs []mount.Spec,
) ([]mount.Mount, mount.Faults, error) {
	resolved, err := volume.Resolve(ctx, s.reader, volume.Request{
		Principal: c.Principal, Template: template, Metadata: c.Metadata, Specs: specs, Drivers: s.policy.Drivers, Plugins: s.plugins, Default: s.volumes, Node: node,
	})
	var faults mount.Faults
	if err != nil && !errors.As(err, &faults) {
		return nil, nil, err
	}
	policy := s.policy
	policy.Reserved = slices.Concat(policy.Reserved, template.Reserved)
	refused, err := admitted(policy, resolved)
	if err != nil {
		return nil, nil, err
	}
	faults = append(faults, refused...)
	faults = append(faults, s.checked(resolved, faults, c.Metadata)...)
	faults = slices.DeleteFunc(faults, func(f mount.Fault) bool {
		return f.Field == mount.FieldVolume && f.Index < len(specs) && specs[f.Index].Volume == ""
	})
	slices.SortStableFunc(faults, func(a, b mount.Fault) int { return a.Index - b.Index })
	return resolved, faults, nil
}

// furnish are the volumes of its pool that a sandbox has not got yet: all of one that was made for this claim, else those that come with
// a claim. What it has beside the claim's own mounts is judged with them: old stock may have a volume that is not its pool's any more, and
// not for this claimant.
func (s *Service) furnish(ctx context.Context, c warmpool.Claim, sb warmpool.Sandbox) ([]mount.Mount, error) {
	var specs []mount.Spec
	for _, v := range sb.MadeFrom.Volumes {
		specs = append(specs, v.Spec)
	}
	own := len(specs)
	for _, has := range sb.Mounts {
		if !slices.ContainsFunc(slices.Concat(specs, c.Mounts), func(known mount.Spec) bool { return known.ID == has.ID }) {
			specs = append(specs, has.Spec)
		}
	}
	if len(specs) == 0 {
		return nil, nil
	}
	resolved, faults, err := s.judge(ctx, sb.MadeFrom, c, &sb.Node, specs)
	switch {
	case err != nil:
		return nil, err
	case len(faults) > 0:
		return nil, outdated(sb, specs[max(faults[0].Index, 0)], faults[0].Reason)
	}
	return slices.DeleteFunc(resolved[:own], func(m mount.Mount) bool {
		return slices.ContainsFunc(sb.Mounts, func(has warmpool.MountStatus) bool { return has.ID == m.ID && has.Phase == warmpool.MountReady })
	}), nil
}

// errOutdated marks errors of a sandbox that was made with what its claimant cannot have, though its template as it is now would do.
var errOutdated = fmt.Errorf("made with other volumes than its template has now: %w", warmpool.ErrUnreachable)

// outdated is the error of a sandbox with a volume that its claimant cannot have. Which one is for the log: it may be somebody else's.
func outdated(sb warmpool.Sandbox, volume mount.Spec, reason string) error {
	return &warmpool.Error{
		Code: warmpool.Unavailable, RetryAfter: 2 * time.Second, Err: fmt.Errorf("volume %q at %s: %s: %w", volume.ID, volume.Target, reason, errOutdated),
		Message: fmt.Sprintf("the sandboxes of template '%s' that are ready were made with a volume that you cannot have; they are being replaced: try again", sb.Template),
	}
}

// admitted are the policy's faults. What did not resolve has no driver; only its paths can be judged.
func admitted(p mount.Policy, ms []mount.Mount) (mount.Faults, error) {
	var faults mount.Faults
	if err := p.Admit(ms); err != nil && !errors.As(err, &faults) {
		return nil, err
	}
	return slices.DeleteFunc(faults, func(f mount.Fault) bool {
		return f.Field == mount.FieldVolume && f.Index < len(ms) && ms[f.Index].Driver == ""
	}), nil
}

// checked are the faults that drivers see in volumes of which nothing else is wrong. One that only mounting can tell is none.
func (s *Service) checked(ms []mount.Mount, known mount.Faults, metadata map[string]string) (out mount.Faults) {
	checker, ok := s.backend.(Checker)
	if !ok {
		return nil
	}
	for i, m := range ms {
		if slices.ContainsFunc(known, func(f mount.Fault) bool { return f.Index == i }) {
			continue
		}
		// The sandbox is not known yet; every ID is as long as this one.
		whole, err := volume.Expand([]mount.Mount{m}, warmpool.NewID(), metadata)
		if err == nil {
			err = checker.Check(whole[0])
		}
		if err != nil {
			out = append(out, mount.Fault{Index: i, Field: mount.FieldVolume, Reason: "cannot be mounted: " + err.Error()})
		}
	}
	return out
}

// refusal is an error of Faults as one that a dialect can render; other errors stay as they are.
func refusal(err error) error {
	var faults mount.Faults
	if !errors.As(err, &faults) {
		return err
	}
	return &warmpool.Error{Code: warmpool.Invalid, Message: faults.Error(), Err: faults}
}
