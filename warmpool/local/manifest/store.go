package manifest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	corev1 "k8s.io/api/core/v1"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

const (
	// quiet is how long nothing must happen before an edit counts as done: editors write in several steps.
	quiet = 100 * time.Millisecond
	// again is how often the directory is read even when nothing was seen to happen in it: files behind symbolic links, a
	// directory that was replaced, and file systems that tell nothing.
	again = 10 * time.Second
)

// Store is a directory of manifests. Safe for concurrent use; what it returns must not be modified.
type Store struct {
	dir string
	log *slog.Logger

	mu      sync.RWMutex
	snap    *snapshot
	digest  [sha256.Size]byte // of the files last looked at, good or broken
	broken  string            // the last error that was logged
	changed chan struct{}
}

var _ volume.Reader = (*Store)(nil)

// Open reads dir. A directory whose manifests are wrong is an error, with file, line and field of all that is.
func Open(dir string, log *slog.Logger) (*Store, error) {
	s := &Store{dir: dir, log: log, changed: make(chan struct{})}
	all, err := files(dir)
	if err != nil {
		return nil, fmt.Errorf("manifests: %w", err)
	}
	if s.snap, err = load(all); err != nil {
		return nil, fmt.Errorf("manifests in %s:\n%w", dir, err)
	}
	s.digest = digest(all)
	s.tell()
	return s, nil
}

// Run follows the directory until ctx ends. A broken edit is logged, and the last good set stays.
func (s *Store) Run(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch the manifests: %w", err)
	}
	defer func() { _ = watcher.Close() }()
	tick := time.NewTicker(again)
	defer tick.Stop()
	settled := time.NewTimer(quiet) // once at the start: something may have changed since Open
	defer settled.Stop()
	for {
		// Again each time round: the watch is lost when the directory is replaced, and adding twice is harmless.
		if err := watcher.Add(s.dir); err != nil {
			s.log.Debug("manifest directory cannot be watched", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events:
			settled.Reset(quiet)
		case err := <-watcher.Errors:
			s.log.Debug("manifest watch", "error", err)
			settled.Reset(quiet)
		case <-tick.C:
			settled.Reset(quiet)
		case <-settled.C:
			s.reload()
		}
	}
}

// reload takes over what the directory says now, if it is new and good.
func (s *Store) reload() {
	all, err := files(s.dir)
	if err != nil {
		s.complain(err)
		return
	}
	sum := digest(all)
	if !s.isNew(sum) {
		return
	}
	snap, err := load(all)
	if err != nil {
		s.complain(err)
		return
	}
	s.mu.Lock()
	s.snap, s.broken = snap, ""
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	s.tell()
}

// isNew says whether the files differ from those last looked at, and remembers them.
func (s *Store) isNew(sum [sha256.Size]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sum == s.digest && s.broken == "" {
		return false
	}
	s.digest = sum
	return true
}

// complain logs an error once, however often the same files are read again.
func (s *Store) complain(err error) {
	s.mu.Lock()
	again := err.Error() == s.broken
	s.broken = err.Error()
	s.mu.Unlock()
	if again {
		return
	}
	var faults Faults
	if !errors.As(err, &faults) {
		s.log.Error("manifests not read; the last good ones stay", "dir", s.dir, "error", err)
		return
	}
	for _, f := range faults {
		s.log.Error("manifest is wrong; the last good ones stay", "dir", s.dir, "fault", f.String())
	}
}

func (s *Store) tell() {
	s.mu.RLock()
	defer s.mu.RUnlock()
	s.log.Info("manifests read", "dir", s.dir, "sets", len(s.snap.sets), "volumes", len(s.snap.volumes), "secrets", len(s.snap.secrets))
	for _, what := range s.snap.ignored {
		s.log.Info("ignored: it means nothing on one machine", "manifest", what)
	}
}

func digest(all []file) [sha256.Size]byte {
	h := sha256.New()
	for _, f := range all {
		_, _ = fmt.Fprintf(h, "%d %q %d\n", len(f.name), f.name, len(f.raw)) // a hash never fails
		_, _ = h.Write(f.raw)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Changed is closed when the manifests next change. Take it before reading, so that nothing is missed.
func (s *Store) Changed() <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.changed
}

// Sets are the SandboxSets by name.
func (s *Store) Sets() []v1alpha1.SandboxSet {
	snap := s.current()
	out := make([]v1alpha1.SandboxSet, 0, len(snap.sets))
	for _, name := range slices.Sorted(maps.Keys(snap.sets)) {
		out = append(out, snap.sets[name])
	}
	return out
}

// PersistentVolume finds a volume by name.
func (s *Store) PersistentVolume(_ context.Context, name string) (*corev1.PersistentVolume, error) {
	return found(s.current().volumes, name, "PersistentVolume", name)
}

// PersistentVolumeClaim finds a claim by namespace and name.
func (s *Store) PersistentVolumeClaim(_ context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	return found(s.current().claims, key{namespace, name}, "PersistentVolumeClaim", name)
}

// Secret finds a secret by namespace and name.
func (s *Store) Secret(_ context.Context, namespace, name string) (*corev1.Secret, error) {
	return found(s.current().secrets, key{namespace, name}, "Secret", name)
}

func (s *Store) current() *snapshot {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.snap
}

func found[K comparable, V any](in map[K]*V, k K, what, name string) (*V, error) {
	v, ok := in[k]
	if !ok {
		return nil, warmpool.Errorf(warmpool.NotFound, "no %s %q", what, name)
	}
	return v, nil
}
