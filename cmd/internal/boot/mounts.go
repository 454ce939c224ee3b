package boot

import (
	"flag"
	"fmt"
	"strconv"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// mostMounts is how many a Sandbox object can hold.
const mostMounts = 64

// MaxMounts binds the flag that says how many mounts a sandbox of a cluster may have.
func MaxMounts(fs *flag.FlagSet, n *int) {
	*n = mount.DefaultMaxMounts
	fs.Func("max-mounts", fmt.Sprintf("most mounts of one sandbox, 1 to %d, the same for gateway and controller (default %d)", mostMounts, *n), func(text string) error {
		got, err := strconv.Atoi(text)
		if err != nil || got < 1 || got > mostMounts {
			return fmt.Errorf("must be a number from 1 to %d", mostMounts)
		}
		*n = got
		return nil
	})
}
