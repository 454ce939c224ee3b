package oss

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

// obituary says how a client has ended, with the last line that it wrote; it must have ended.
func (c *client) obituary() error {
	how := "it ended by itself"
	if st, ok := c.state.Sys().(syscall.WaitStatus); ok && st.Signaled() {
		how = fmt.Sprintf("it was killed by signal %d", st.Signal())
		if st.Signal() == syscall.SIGKILL && killedForMemory() > c.oom {
			how = "it was killed because its container had no memory left"
		}
	} else if c.state.ExitCode() > 0 {
		how = fmt.Sprintf("it ended with code %d", c.state.ExitCode())
	}
	if last := lastLine(c.output()); last != "" {
		how += ": " + last
	}
	return errors.New(how)
}

// longest is how much of a line is told.
const longest = 200

// paths of this machine, and addresses with what is asked of them, are nobody's business.
var private = regexp.MustCompile(`(?:[a-z]+://|/)[^\s'"]*`)

// lastLine is the last line of output that is not mere information, for a volume's owner to read.
func lastLine(output string) string {
	lines := strings.Split(lastWords(output), "\n")
	last := private.ReplaceAllString(lines[len(lines)-1], "[redacted]")
	last = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(last, ""))
	if len(last) > longest {
		last = strings.ToValidUTF8(last[:longest], "") + "..."
	}
	return last
}

// killedForMemory is how many processes of this one's control group the kernel has killed for want of memory; 0 where it does not say.
func killedForMemory() int {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(groups)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) < 3 || parts[1] != "" && parts[1] != "memory" {
			continue
		}
		root, file := "/sys/fs/cgroup", "memory.events"
		if parts[1] != "" { // version 1
			root, file = "/sys/fs/cgroup/memory", "memory.oom_control"
		}
		for _, group := range []string{parts[2], ""} { // a container may see its own as the root
			if n, ok := oomKills(filepath.Join(root, group, file)); ok {
				return n
			}
		}
	}
	return 0
}

func oomKills(path string) (int, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	for line := range bytes.Lines(b) {
		if count, ok := bytes.CutPrefix(line, []byte("oom_kill ")); ok {
			n, err := strconv.Atoi(string(bytes.TrimSpace(count)))
			return n, err == nil
		}
	}
	return 0, false
}
