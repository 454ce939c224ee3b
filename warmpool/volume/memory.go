package volume

import (
	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// memory counts ephemeral volumes against the containers that can fill them: the kernel charges what is in one to whoever wrote it, so that
// one that does not fit ends its writer instead of refusing the write.
func (res *resolution) memory() {
	for k, c := range res.req.Template.Containers {
		sizes, total := map[string]bool{}, int64(0)
		for i, s := range res.req.Specs {
			if !s.IsEphemeral() || s.ReadOnly || sizes[s.Volume] || s.Container != c.Name && (k != 0 || s.Container != "") {
				continue
			}
			sizes[s.Volume] = true
			total += min(s.Ephemeral.Size, 1<<60/int64(len(res.req.Specs))) // no sum overflows
			switch {
			case c.Memory == 0:
				res.fault(i, mount.FieldSize, "container %q has no memory limit that the volume could be counted against; its template must set resources.limits.memory", c.Name)
			case total > c.Memory:
				res.fault(i, mount.FieldSize, "what container %q may write to ephemeral volumes adds up to %d bytes and its memory is limited to %d", c.Name, total, c.Memory)
			}
		}
	}
}
