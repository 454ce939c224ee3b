// Package figures is what programs that print figures share: what they say of the machine that they were taken on, and percentiles.
package figures

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Machine is the machine in one line: processor, cores, kernel, Go and how busy it is.
func Machine() string {
	model, kernel := "unknown processor", "unknown kernel"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel = strings.TrimSpace(string(text))
	}
	return fmt.Sprintf("machine: %s, %d cores, Linux %s, %s, load %s", model, runtime.NumCPU(), kernel, runtime.Version(), Load())
}

// Load is what /proc/loadavg says: how much the machine does beside.
func Load() string {
	text, _ := os.ReadFile("/proc/loadavg")
	return strings.TrimSpace(string(text))
}
