package process

import (
	"bytes"
	"os"
	"strconv"
)

// preference is how much rather than the daemon a command is killed when the sandbox's memory is used up, as upstream
// has it: a sandbox without its daemon is lost.
const preference = 100

// offer makes a process, and what it will start, the kernel's first choice. Where that is not allowed the daemon takes
// its chance. It raises what the daemon has, which a container's runtime may have set: to lower it takes a right more.
func offer(pid int) {
	const most = 1000
	raw, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return
	}
	own, err := strconv.Atoi(string(bytes.TrimSpace(raw)))
	if err != nil {
		return
	}
	score := strconv.Itoa(min(own+preference, most))
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(score), 0)
}
