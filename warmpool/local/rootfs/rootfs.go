// Package rootfs makes the root file system of a sandbox out of nothing: a small skeleton of generated files and the few host
// files of an explicit list, so that a host file which nobody thought of is absent instead of hidden. /usr is not part of it;
// the container runtime mounts an overlay of the host's there, and one of the skeleton's own /etc. It knows no container, no pool and no network.
package rootfs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind says what an Entry is.
type Kind int

// The kinds of entries.
const (
	Dir Kind = iota
	File
	Link
)

// Entry is one directory, file or symbolic link of the skeleton.
type Entry struct {
	Path     string // relative to the root, no leading slash
	Kind     Kind
	Mode     fs.FileMode // permission bits, with ModeSticky where wanted
	UID, GID int
	Content  []byte
	Target   string // of a link
	// Host says that the entry was taken from the host; everything else is generated.
	Host bool
}

// Skeleton is what every sandbox's root begins as. A plain value once loaded; safe for concurrent use.
type Skeleton struct {
	entries []Entry
	digest  string
}

// Names are the parts of a root that differ between sandboxes.
type Names struct {
	Hostname string
	// Nameserver is an address for resolv.conf; empty means that there is none to ask.
	Nameserver string
}

// Load reads the host files of the allow-list below host (usually "/") and generates the rest.
func Load(host string) (*Skeleton, error) {
	byPath := map[string]Entry{}
	for _, e := range generated() {
		byPath[e.Path] = e
	}
	taken, err := fromHost(host)
	if err != nil {
		return nil, err
	}
	for _, e := range taken {
		for dir := filepath.Dir(e.Path); dir != "."; dir = filepath.Dir(dir) {
			if _, ok := byPath[dir]; !ok {
				byPath[dir] = Entry{Path: dir, Kind: Dir, Mode: 0o755}
			}
		}
		if _, ok := byPath[e.Path]; !ok {
			byPath[e.Path] = e
		}
	}
	s := &Skeleton{entries: make([]Entry, 0, len(byPath))}
	for _, e := range byPath {
		s.entries = append(s.entries, e)
	}
	sort.Slice(s.entries, func(i, j int) bool { return s.entries[i].Path < s.entries[j].Path })
	s.digest = digest(s.entries)
	return s, nil
}

// Digest changes when the content of the skeleton does.
func (s *Skeleton) Digest() string { return s.digest }

// Entries are the parts of the skeleton, parents first. Callers do not modify them.
func (s *Skeleton) Entries() []Entry { return s.entries }

// WriteShared makes the lower layer of /etc in dir, an existing empty directory. It is the same for every sandbox of a Skeleton:
// hundreds of links and files that need not be made for each.
func (s *Skeleton) WriteShared(dir string) error {
	return write(dir, "etc", s.entries)
}

// Write makes the rest of a root: root becomes "/", with an empty /etc, and etc the upper layer of /etc with what differs between
// sandboxes. Both are existing empty directories of the caller's.
func (s *Skeleton) Write(root, etc string, n Names) error {
	rest := slices.DeleteFunc(slices.Clone(s.entries), func(e Entry) bool { return strings.HasPrefix(e.Path, "etc/") })
	if err := write(root, "", rest); err != nil {
		return err
	}
	return write(etc, "etc", named(n))
}

// write makes the entries below base in dir.
func write(dir, base string, entries []Entry) error {
	if err := unix.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("root of the sandbox: %w", err)
	}
	for _, e := range entries {
		rel, err := filepath.Rel(base, e.Path)
		if err != nil || rel == "." || strings.HasPrefix(rel, "..") {
			continue
		}
		if err := e.write(filepath.Join(dir, rel)); err != nil {
			return fmt.Errorf("root of the sandbox: /%s: %w", e.Path, err)
		}
	}
	return nil
}

func (e Entry) write(path string) error {
	switch e.Kind {
	case Link:
		return os.Symlink(e.Target, path)
	case Dir:
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
	case File:
		if err := os.WriteFile(path, e.Content, 0o600); err != nil {
			return err
		}
	}
	if e.UID != 0 || e.GID != 0 {
		if err := os.Lchown(path, e.UID, e.GID); err != nil {
			return err
		}
	}
	// chmod after chown, and by the bare system call: neither the umask nor a lost bit may bend the mode.
	mode := uint32(e.Mode.Perm())
	if e.Mode&fs.ModeSticky != 0 {
		mode |= unix.S_ISVTX
	}
	return unix.Chmod(path, mode)
}

func digest(entries []Entry) string {
	h := sha256.New()
	for _, e := range entries {
		_, _ = fmt.Fprintf(h, "%q %d %o %d %d %q %q\n", e.Path, e.Kind, e.Mode, e.UID, e.GID, e.Target, e.Content)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}
