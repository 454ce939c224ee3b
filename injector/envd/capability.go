package envd

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// canSwitchUser says whether this process may start others as any user: root alone is not enough, a container may
// have taken the capabilities away.
func canSwitchUser() bool {
	if os.Getuid() != 0 {
		return false
	}
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return true // nothing says otherwise
	}
	return canSwitch(string(raw))
}

func canSwitch(status string) bool {
	for line := range strings.Lines(status) {
		mask, ok := strings.CutPrefix(line, "CapEff:")
		if !ok {
			continue
		}
		caps, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
		const both = 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID
		return err == nil && caps&both == both
	}
	return true
}
