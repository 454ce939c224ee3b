package envd

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"
)

// metrics is the body of GET /metrics; sizes are in bytes unless they say MiB.
type metrics struct {
	Timestamp   int64   `json:"ts"`
	CPUCount    int     `json:"cpu_count"`
	CPUUsedPct  float64 `json:"cpu_used_pct"`
	MemTotalMiB uint64  `json:"mem_total_mib"`
	MemUsedMiB  uint64  `json:"mem_used_mib"`
	MemTotal    uint64  `json:"mem_total"`
	MemUsed     uint64  `json:"mem_used"`
	MemCache    uint64  `json:"mem_cache"`
	DiskUsed    uint64  `json:"disk_used"`
	DiskTotal   uint64  `json:"disk_total"`
}

// meter reads the sandbox's metrics: its cgroup's where the cgroup can be seen, else the machine's. The share of the
// processors is since the last reading.
type meter struct {
	clock clock.PassiveClock

	mu   sync.Mutex
	at   time.Time
	used time.Duration
}

func (m *meter) read() (metrics, error) {
	total, used, cache, err := memory()
	if err != nil {
		return metrics{}, err
	}
	var disk unix.Statfs_t
	if err := unix.Statfs("/", &disk); err != nil {
		return metrics{}, fmt.Errorf("statfs /: %w", err)
	}
	block := uint64(disk.Bsize)
	return metrics{
		Timestamp: m.clock.Now().Unix(), CPUCount: runtime.NumCPU(), CPUUsedPct: m.cpu(),
		MemTotalMiB: total >> 20, MemUsedMiB: used >> 20, MemTotal: total, MemUsed: used, MemCache: cache,
		DiskUsed: (disk.Blocks - disk.Bavail) * block, DiskTotal: disk.Blocks * block,
	}, nil
}

// cpu is 100 when all processors were busy since the last reading; the first reading is 0.
func (m *meter) cpu() float64 {
	used, ok := cpuTime()
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.clock.Now()
	span, spent := now.Sub(m.at), used-m.used
	first := m.at.IsZero()
	m.at, m.used = now, used
	if !ok || first || span <= 0 || spent < 0 {
		return 0
	}
	pct := 100 * float64(spent) / float64(span) / float64(runtime.NumCPU())
	return math.Round(100*min(pct, 100)) / 100
}

// cpuTime is the processor time used so far, by the cgroup (v2, v1) or by the machine.
func cpuTime() (time.Duration, bool) {
	if n, ok := field("/sys/fs/cgroup/cpu.stat", "usage_usec"); ok {
		return time.Duration(n) * time.Microsecond, true
	}
	if n, ok := number("/sys/fs/cgroup/cpuacct/cpuacct.usage"); ok {
		return time.Duration(n), true
	}
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, false
	}
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	var busy uint64
	for i, f := range strings.Fields(string(line)) {
		n, err := strconv.ParseUint(f, 10, 64)
		if idle := i == 4 || i == 5 || i > 8; err == nil && !idle { // "cpu" user nice system IDLE IOWAIT irq softirq steal guest...
			busy += n
		}
	}
	return time.Duration(busy) * 10 * time.Millisecond, true // USER_HZ is 100 on every Linux that Go runs on
}

// memory is the machine's, narrowed to the cgroup's limit if it has one.
func memory() (total, used, cache uint64, err error) {
	const meminfo = "/proc/meminfo"
	totalK, ok1 := field(meminfo, "MemTotal:")
	freeK, ok2 := field(meminfo, "MemAvailable:")
	cacheK, ok3 := field(meminfo, "Cached:")
	if !ok1 || !ok2 || !ok3 {
		return 0, 0, 0, fmt.Errorf("%s: MemTotal, MemAvailable or Cached is missing", meminfo)
	}
	total, used, cache = totalK<<10, (totalK-min(freeK, totalK))<<10, cacheK<<10
	for _, g := range []struct{ limit, usage, stat, cached string }{
		{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "file"},
		{"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes", "/sys/fs/cgroup/memory/memory.stat", "cache"},
	} {
		limit, ok := number(g.limit)
		if !ok || limit >= total {
			continue // no such cgroup, or no limit
		}
		usage, _ := number(g.usage)
		cached, _ := field(g.stat, g.cached)
		return limit, usage - min(cached, usage), cached, nil
	}
	return total, used, cache, nil
}

// number reads a file that holds one number.
func number(path string) (uint64, bool) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(string(bytes.TrimSpace(raw)), 10, 64)
	return n, err == nil
}

// field reads the number after a name at the beginning of a line.
func field(path, name string) (uint64, bool) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) > 1 && f[0] == name {
			n, err := strconv.ParseUint(f[1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
