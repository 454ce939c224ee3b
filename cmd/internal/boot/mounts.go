package boot

import (
	"flag"
	"fmt"
	"strconv"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// MaxMounts binds the flag that says how many mounts a sandbox of a cluster may have.
func MaxMounts(fs *flag.FlagSet, n *int) {
	*n = mount.DefaultMaxMounts
	fs.Func("max-mounts", fmt.Sprintf("most mounts of one sandbox, 1 to %d, the same for gateway and controller (default %d)", mount.MostMounts, *n), func(text string) error {
		got, err := strconv.Atoi(text)
		if err != nil || got < 1 || got > mount.MostMounts {
			return fmt.Errorf("must be a number from 1 to %d", mount.MostMounts)
		}
		*n = got
		return nil
	})
}
