package warmpool

import (
	"fmt"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// Overfull counts ephemeral volumes against the containers that can fill them: the kernel charges what is in one to whoever wrote it, so
// that one that does not fit would end its writer instead of refusing the write. The faults' indexes are into specs.
func (t Template) Overfull(specs []mount.Spec) (out mount.Faults) {
	for k, c := range t.Containers {
		sizes, total := map[string]bool{}, int64(0)
		for i, s := range specs {
			if !s.IsEphemeral() || s.ReadOnly || sizes[s.Volume] || s.Container != c.Name && (k != 0 || s.Container != "") {
				continue
			}
			sizes[s.Volume] = true
			total += min(s.Ephemeral.Size, 1<<60/int64(len(specs))) // no sum overflows
			var reason string
			switch {
			case c.Memory == 0:
				reason = fmt.Sprintf("container %q has no memory limit that the volume could be counted against; its template must set resources.limits.memory", c.Name)
			case total > c.Memory:
				reason = fmt.Sprintf("what container %q may write to ephemeral volumes adds up to %d bytes and its memory is limited to %d", c.Name, total, c.Memory)
			default:
				continue
			}
			out = append(out, mount.Fault{Index: i, Field: mount.FieldSize, Reason: reason})
		}
	}
	return out
}
