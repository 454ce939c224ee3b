// Package canary looks for secrets in the places where they must never be: arguments and environments of processes, logs, state
// files that others may read, answers of the API. It finds encoded forms too. It does not know what the secrets open.
package canary

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Search is what to look for.
type Search struct {
	// Secrets by name; findings tell the name only.
	Secrets map[string]string
	// Exempt are processes that may hold them: the object store that checks them, the one that searches.
	Exempt []int
	// Skip are directories that are not looked into: volumes mounted below the one that is searched.
	Skip []string
}

// Processes looks through the arguments and environments of all processes.
func (s Search) Processes() ([]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || slices.Contains(s.Exempt, pid) {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
		for _, part := range []string{"cmdline", "environ"} {
			text, err := os.ReadFile(filepath.Join("/proc", e.Name(), part))
			if err != nil {
				continue // gone meanwhile
			}
			out = append(out, s.Text(fmt.Sprintf("%s of process %d (%s)", part, pid, strings.TrimSpace(string(comm))), text)...)
		}
	}
	return out, nil
}

// enter skips what lies outside: volumes and root file systems that are mounted below belong to tenants.
func (s Search) enter(dir string) error {
	if slices.Contains(s.Skip, dir) {
		return fs.SkipDir
	}
	return nil
}

// Files looks through all regular files below a directory. A credential file may hold secrets: its owner alone can read it and
// it is no log.
func (s Search) Files(dir string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // gone while we walked
		}
		if d.IsDir() {
			return s.enter(path)
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() || credential(path, info.Mode()) {
			return nil //nolint:nilerr // gone while we walked
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // gone while we walked
		}
		out = append(out, s.Text(fmt.Sprintf("file %s (%#o)", path, info.Mode().Perm()), text)...)
		return nil
	})
	return out, err
}

// Text looks through one text and says where it is from.
func (s Search) Text(where string, text []byte) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(s.Secrets)) {
		for how, form := range forms(s.Secrets[name]) {
			if bytes.Contains(text, []byte(form)) {
				out = append(out, fmt.Sprintf("%s holds %s (%s)", where, name, how))
			}
		}
	}
	return out
}

func forms(secret string) map[string]string {
	out := map[string]string{
		"plain":  secret,
		"base64": base64.StdEncoding.EncodeToString([]byte(secret)),
		"hex":    hex.EncodeToString([]byte(secret)),
	}
	if escaped := url.QueryEscape(secret); escaped != secret {
		out["escaped"] = escaped
	}
	return out
}

func credential(path string, mode fs.FileMode) bool {
	return mode.Perm()&0o077 == 0 && !strings.Contains(strings.ToLower(filepath.Base(path)), "log")
}
