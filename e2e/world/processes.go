package world

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Processes are those of this world, the store left out: all, or those of one name.
func (w *World) Processes(name string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == w.Store.program.pid() {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
		if name != "" && strings.TrimSpace(string(comm)) != name {
			continue
		}
		if strings.Contains(w.Places(pid), w.Dir) {
			out = append(out, pid)
		}
	}
	return out, nil
}

// Places is everything that tells where a process belongs: its arguments, cgroups and, unless it sees the machine's, its mounts.
func (w *World) Places(pid int) string {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	text, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	cgroups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
	text = append(text, cgroups...)
	ours, _ := os.Readlink("/proc/self/ns/mnt")
	if its, _ := os.Readlink(filepath.Join(dir, "ns", "mnt")); its != ours {
		mounts, _ := os.ReadFile(filepath.Join(dir, "mountinfo"))
		text = append(text, mounts...)
	}
	return string(text)
}
