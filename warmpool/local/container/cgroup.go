package container

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// mountRoot is where the kernel's cgroup hierarchies are mounted on every distribution.
const mountRoot = "/sys/fs/cgroup"

// groups are the cgroups of one Runtime's containers in every hierarchy of the machine: one unified (v2), or one per
// controller (v1), or both side by side (hybrid).
type groups struct {
	parents []string          // our parent directory in each hierarchy
	v1      map[string]string // controller -> our parent directory
	unified string            // our parent directory in a pure v2 machine, else empty
}

func findGroups(name string) (groups, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return groups{}, fmt.Errorf("container: %w", err)
	}
	defer func() { _ = f.Close() }()
	g := groups{v1: map[string]string{}}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(tail) < 3 || !strings.HasPrefix(fields[4], mountRoot) {
			continue
		}
		dir := filepath.Join(fields[4], name)
		switch tail[0] {
		case "cgroup2":
			g.parents = append(g.parents, dir)
			if fields[4] == mountRoot {
				g.unified = dir
			}
		case "cgroup":
			g.parents = append(g.parents, dir)
			for _, option := range strings.Split(tail[2], ",") {
				g.v1[option] = dir
			}
		}
	}
	if len(g.parents) == 0 {
		return groups{}, errors.New("container: no cgroup hierarchy is mounted below " + mountRoot + "; sandboxes need one for their limits")
	}
	return g, lines.Err()
}

func (g groups) list() (out []string) {
	for _, parent := range g.parents {
		entries, err := os.ReadDir(parent)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.IsDir() && !slices.Contains(out, e.Name()) {
				out = append(out, e.Name())
			}
		}
	}
	return out
}

// kill ends every process in the cgroups of id and waits until they are gone.
func (g groups) kill(ctx context.Context, id string) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		left := g.processes(id)
		if len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL) // one that has just ended is what we want
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("container %s: %d of its processes do not end: %w", id, len(left), ctx.Err())
		case <-tick.C:
		}
	}
}

// processes are those of id in the first hierarchy that has any. Normally all have the same; while one is being made, or
// removed, they may not.
func (g groups) processes(id string) []int {
	for _, parent := range g.parents {
		if pids := listed(filepath.Join(parent, id), "cgroup.procs"); len(pids) > 0 {
			return pids
		}
	}
	return nil
}

// listed reads the numbers in a file of a cgroup and of those below it. One that goes away meanwhile has none.
func listed(dir, file string) (out []int) {
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return nil
	}
	for _, line := range strings.Fields(string(text)) {
		if pid := int(parseInt(line)); pid > 1 {
			out = append(out, pid)
		}
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, listed(filepath.Join(dir, e.Name()), file)...)
		}
	}
	return out
}

// remove removes the cgroups of id, of our parent itself where id is empty and nothing is left in it.
func (g groups) remove(id string) error {
	var errs []error
	for _, parent := range g.parents {
		dir := filepath.Join(parent, id)
		if id == "" {
			if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
				errs = append(errs, err)
			}
			continue
		}
		if err := removeGroup(dir); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func removeGroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	// The kernel holds a cgroup for a moment after its last process.
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for range 100 {
		err = os.Remove(dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		<-tick.C
	}
	return err
}
