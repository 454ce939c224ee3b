package container

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Usage is what a container has used, as the kernel counts it.
type Usage struct {
	CPU time.Duration // of all CPUs together, since the start
	// Memory is what its processes hold, Cache what the kernel keeps of its files and can drop.
	Memory, Cache int64
}

// Usage reads the counters of a living container.
func (r *Runtime) Usage(id string) (Usage, error) {
	if r.groups.unified != "" {
		return usageUnified(filepath.Join(r.groups.unified, id))
	}
	return usageV1(filepath.Join(r.groups.v1["cpuacct"], id), filepath.Join(r.groups.v1["memory"], id))
}

func usageV1(cpu, memory string) (Usage, error) {
	ns, err := os.ReadFile(filepath.Join(cpu, "cpuacct.usage"))
	if err != nil {
		return Usage{}, fmt.Errorf("container: CPU usage: %w", err)
	}
	total, err := os.ReadFile(filepath.Join(memory, "memory.usage_in_bytes"))
	if err != nil {
		return Usage{}, fmt.Errorf("container: memory usage: %w", err)
	}
	stat, err := counters(filepath.Join(memory, "memory.stat"))
	if err != nil {
		return Usage{}, err
	}
	cache := stat["total_cache"]
	return Usage{CPU: time.Duration(parseInt(string(ns))), Memory: max(0, parseInt(string(total))-cache), Cache: cache}, nil
}

func usageUnified(dir string) (Usage, error) {
	cpu, err := counters(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		return Usage{}, err
	}
	total, err := os.ReadFile(filepath.Join(dir, "memory.current"))
	if err != nil {
		return Usage{}, fmt.Errorf("container: memory usage: %w", err)
	}
	stat, err := counters(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return Usage{}, err
	}
	cache := stat["file"]
	return Usage{CPU: time.Duration(cpu["usage_usec"]) * time.Microsecond, Memory: max(0, parseInt(string(total))-cache), Cache: cache}, nil
}

// counters reads a flat keyed file of the cgroup file system.
func counters(path string) (map[string]int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("container: usage: %w", err)
	}
	defer func() { _ = f.Close() }()
	out := map[string]int64{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), " "); ok {
			out[key] = parseInt(value)
		}
	}
	return out, nil
}
