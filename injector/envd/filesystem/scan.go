package filesystem

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/injector/envd/filesystem/filesystempb"
)

const (
	// scanEvery is how soon a change made on another machine is told.
	scanEvery = 2 * time.Second
	// scanMost bounds the memory of a scan. In a larger tree only the part that is found first is compared.
	scanMost = 20000
)

// remote says whether changes may come to a path from other machines, or from behind a FUSE server.
func remote(path string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return false, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	switch uint32(st.Type) {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC,
		unix.CODA_SUPER_MAGIC, unix.V9FS_MAGIC, unix.AFS_FS_MAGIC, unix.CEPH_SUPER_MAGIC:
		return true, nil
	default:
		return false, nil
	}
}

// scanner finds changes by comparing what a tree looks like with what it looked like.
type scanner struct {
	root      string
	recursive bool
	known     map[string]look
}

// look is what a change changes.
type look struct {
	size    int64
	changed time.Time
	mode    fs.FileMode
}

func newScanner(root string, recursive bool) *scanner {
	s := &scanner{root: root, recursive: recursive}
	s.known, _ = s.survey(context.Background()) // a tree that cannot be read now is all new later
	return s
}

// saw takes over how path looks now: the kernel told of it, and it must not be told twice.
func (s *scanner) saw(path string) {
	info, err := os.Lstat(path)
	if err != nil {
		delete(s.known, path)
		return
	}
	if path != s.root && len(s.known) < scanMost {
		s.known[path] = lookOf(info)
	}
}

// run tells of everything that differs from the last time. A tree that cannot be read, since its server is away, has
// not changed as far as anybody knows.
func (s *scanner) run(ctx context.Context, tell func(string, filesystempb.EventType)) {
	now, err := s.survey(ctx)
	if err != nil {
		return
	}
	for path := range s.known {
		if _, there := now[path]; !there {
			tell(path, filesystempb.EventType_EVENT_TYPE_REMOVE)
		}
	}
	for path, is := range now {
		was, known := s.known[path]
		switch {
		case !known:
			tell(path, filesystempb.EventType_EVENT_TYPE_CREATE)
		case was.mode != is.mode:
			tell(path, filesystempb.EventType_EVENT_TYPE_CHMOD)
		case !is.mode.IsDir() && (was.size != is.size || !was.changed.Equal(is.changed)):
			tell(path, filesystempb.EventType_EVENT_TYPE_WRITE)
		}
	}
	s.known = now
}

// survey looks at the tree. The root may be a symbolic link; paths are named as if it were none.
func (s *scanner) survey(ctx context.Context) (map[string]look, error) {
	root, err := filepath.EvalSymlinks(s.root)
	if err != nil {
		return nil, err
	}
	now := map[string]look{}
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && p == root:
			return err
		case err != nil, p == root:
			return nil //nolint:nilerr // what cannot be read has not changed
		case len(now) >= scanMost:
			return fs.SkipAll
		}
		if info, err := d.Info(); err == nil {
			now[filepath.Join(s.root, strings.TrimPrefix(p, root))] = lookOf(info)
		}
		if d.IsDir() && !s.recursive {
			return fs.SkipDir
		}
		return nil
	})
	return now, err
}

func lookOf(info fs.FileInfo) look {
	return look{size: info.Size(), changed: info.ModTime(), mode: info.Mode()}
}
