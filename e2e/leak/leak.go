// Package leak says what a run left behind on a machine: mounts, processes, network namespaces and cgroups that were not there
// before. On a machine that does other things too, marks (a state directory, sandbox ids) tell whose a thing is. It knows
// nothing of sandboxes; it reads /proc and /sys only.
package leak

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Snapshot is what existed at one moment, each thing under a key that no later thing shares.
type Snapshot map[string]string

// Scope narrows what is compared. Without marks everything new counts.
type Scope struct {
	// Marks are texts of which one must occur in a mount's line, a process's arguments, directories or mounts, or a cgroup's path.
	Marks []string
	// CgroupRoot is where cgroups are mounted, /sys/fs/cgroup when empty.
	CgroupRoot string
}

// Take reads what exists now within the scope.
func (s Scope) Take() (Snapshot, error) {
	out := Snapshot{}
	own, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(own)) {
		if fields := strings.Fields(line); len(fields) > 4 && s.match(line) {
			out["mount "+fields[0]+" "+fields[4]] = "mount at " + fields[4]
		}
	}
	if err := s.processes(out); err != nil {
		return nil, err
	}
	return out, s.cgroups(out)
}

// Since names, sorted, what is there now and was not before.
func (s Scope) Since(before Snapshot) ([]string, error) {
	now, err := s.Take()
	if err != nil {
		return nil, err
	}
	for key := range before {
		delete(now, key)
	}
	return slices.Sorted(maps.Values(now)), nil
}

// Wait polls until nothing is left or the context ends, and returns what is left then. The kernel takes a moment to bury
// processes and their namespaces.
func (s Scope) Wait(ctx context.Context, before Snapshot) ([]string, error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		left, err := s.Since(before)
		if err != nil || len(left) == 0 {
			return left, err
		}
		select {
		case <-ctx.Done():
			return left, nil
		case <-tick.C:
		}
	}
}

func (s Scope) match(text string) bool {
	return len(s.Marks) == 0 || slices.ContainsFunc(s.Marks, func(mark string) bool { return strings.Contains(text, mark) })
}

func (s Scope) processes(out Snapshot) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	ownMounts, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		p, ok := read(pid, ownMounts)
		if !ok || !s.match(p.text) {
			continue
		}
		out[fmt.Sprintf("process %d %s", pid, p.start)] = fmt.Sprintf("process %d: %s", pid, p.args)
		out["netns "+p.net] = "network namespace " + p.net
	}
	if own, err := os.Readlink("/proc/self/ns/net"); err == nil {
		delete(out, "netns "+own)
	}
	return nil
}

// process is what can be known of one; text holds every place in which a mark may occur.
type process struct{ start, args, net, text string }

func read(pid int, ownMounts string) (process, bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return process{}, false // gone meanwhile
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" {
		return process{}, false // a zombie holds nothing, and is its parent's to bury
	}
	p := process{start: fields[19]}
	args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	p.args = strings.TrimSpace(strings.ReplaceAll(string(args), "\x00", " "))
	texts := []string{p.args}
	for _, name := range []string{"cwd", "exe", "root"} {
		link, _ := os.Readlink(filepath.Join(dir, name))
		texts = append(texts, link)
	}
	p.net, _ = os.Readlink(filepath.Join(dir, "ns", "net"))
	// A process in our own mount namespace sees every mount of the machine; one in another sees what it was made with.
	if ns, _ := os.Readlink(filepath.Join(dir, "ns", "mnt")); ns != "" && ns != ownMounts {
		mounts, _ := os.ReadFile(filepath.Join(dir, "mountinfo"))
		texts = append(texts, string(mounts))
	}
	p.text = strings.Join(texts, "\n")
	return p, true
}

func (s Scope) cgroups(out Snapshot) error {
	root := s.CgroupRoot
	if root == "" {
		root = "/sys/fs/cgroup"
	}
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // a cgroup that went away while we walked is no leak
		}
		if d.IsDir() && path != root && s.match(path) {
			out["cgroup "+path] = "cgroup " + path
		}
		return nil
	})
}
