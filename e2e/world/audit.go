package world

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Listed are the IDs of all sandboxes that the API lists, over all its pages.
func (w *World) Listed(ctx context.Context) ([]string, error) {
	var out []string
	for next := ""; ; {
		answer, err := w.send(ctx, http.MethodGet, "/v2/sandboxes?limit=100&nextToken="+next, "")
		if err != nil {
			return nil, err
		}
		var page []Sandbox
		if answer.Status != http.StatusOK {
			return nil, answer
		}
		if err := json.Unmarshal([]byte(answer.Body), &page); err != nil {
			return nil, err
		}
		for _, s := range page {
			out = append(out, s.ID)
		}
		if next = answer.Header.Get("X-Next-Token"); next == "" {
			return out, nil
		}
	}
}

// Settle waits until Audit finds nothing or the context ends, and returns what it found last. Sandboxes that are being made or
// ended are half there for a moment.
func (w *World) Settle(ctx context.Context) ([]string, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		wrong, err := w.Audit(ctx)
		if err == nil && len(wrong) == 0 {
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return wrong, nil
		case <-tick.C:
		}
	}
}

// Audit compares what the API lists, what the state directory records, which containers runc knows, which cgroups there are,
// which clients serve volumes and what is mounted on the host. It returns a sentence for each difference.
func (w *World) Audit(ctx context.Context) ([]string, error) {
	var a audit
	listed, err := w.Listed(ctx)
	if err != nil {
		return nil, err
	}
	running, recorded := a.records(filepath.Join(w.State(), "sandboxes"))
	containers, err := w.containers(ctx)
	if err != nil {
		return nil, err
	}
	a.same("listed by the API", listed, "recorded as running", running)
	a.same("recorded in the state directory", recorded, "a container that runs", containers)
	a.same("recorded in the state directory", recorded, "a cgroup", w.cgroups())
	a.within("a directory of volumes", names(filepath.Join(w.State(), "volumes")), "recorded in the state directory", recorded)
	return a.wrong, errors.Join(w.hostMounts(&a), w.clients(&a))
}

// audit collects differences.
type audit struct{ wrong []string }

func (a *audit) same(what string, these []string, other string, those []string) {
	a.within(what, these, other, those)
	a.within(other, those, what, these)
}

func (a *audit) within(what string, these []string, other string, those []string) {
	for _, id := range these {
		if !slices.Contains(those, id) {
			a.wrong = append(a.wrong, fmt.Sprintf("%s is %s, but not %s", id, what, other))
		}
	}
}

// records are the sandboxes whose record says that they are handed out, and all that have a directory.
func (a *audit) records(dir string) (running, all []string) {
	for _, id := range names(dir) {
		all = append(all, id)
		var record struct{ State string }
		text, err := os.ReadFile(filepath.Join(dir, id, "state.json"))
		if err = errors.Join(err, json.Unmarshal(text, &record)); err != nil {
			a.wrong = append(a.wrong, fmt.Sprintf("%s has no readable record", id))
			continue
		}
		switch record.State {
		case "running":
			running = append(running, id)
		case "available":
		default:
			a.wrong = append(a.wrong, fmt.Sprintf("%s is still %s", id, record.State))
		}
	}
	return running, all
}

func names(dir string) (out []string) {
	entries, _ := os.ReadDir(dir) // a directory that is not there has nothing in it
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// containers are those whose first process lives, as runc itself sees it.
func (w *World) containers(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, "runc", "--root", filepath.Join(w.State(), "runc"), "list", "--format", "json").Output()
	if err != nil {
		return nil, fmt.Errorf("runc list: %w", err)
	}
	var all []struct{ ID, Status string }
	if err := json.Unmarshal(out, &all); err != nil {
		return nil, fmt.Errorf("runc list: %w", err)
	}
	var ids []string
	for _, c := range all {
		if c.Status == "running" {
			ids = append(ids, c.ID)
		} else {
			ids = append(ids, c.ID+" ("+c.Status+")")
		}
	}
	return ids, nil
}

// CgroupParent is the name of the cgroup in which this world's sandboxes have theirs.
func (w *World) CgroupParent() string {
	sum := sha256.Sum256([]byte(w.State()))
	return "sandgate-" + hex.EncodeToString(sum[:])[:12]
}

func (w *World) cgroups() (out []string) {
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil //nolint:nilerr // a cgroup that goes away while we walk is gone
		}
		if filepath.Base(filepath.Dir(path)) != w.CgroupParent() {
			return nil
		}
		if id := filepath.Base(path); !slices.Contains(out, id) {
			out = append(out, id)
		}
		return fs.SkipDir
	})
	return out
}

// hostMounts finds mounts below the state directory: a volume belongs to its sandbox's mount namespace alone.
func (w *World) hostMounts(a *audit) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], w.State()) {
			a.wrong = append(a.wrong, "the host has a mount at "+fields[4])
		}
	}
	return nil
}

// clients finds processes that serve a volume which nobody has.
func (w *World) clients(a *audit) error {
	journals, err := filepath.Glob(filepath.Join(w.State(), "volumes", "*", "journal", "*.json"))
	if err != nil {
		return err
	}
	known := map[int]bool{}
	for _, file := range journals {
		var entry struct{ Client struct{ PID int } }
		if text, err := os.ReadFile(file); err == nil && json.Unmarshal(text, &entry) == nil {
			known[entry.Client.PID] = true
		}
	}
	pids, err := w.Processes("s3fs")
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if !known[pid] {
			a.wrong = append(a.wrong, fmt.Sprintf("process %d serves a volume of nobody", pid))
		}
	}
	return nil
}
