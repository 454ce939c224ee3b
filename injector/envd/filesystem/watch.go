package filesystem

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/sandgate-dev/sandgate/injector/envd/filesystem/filesystempb"
)

// watch turns what happens below a directory into events. The kernel tells of what is done on this machine; on a
// network mount a scan from time to time finds what was done elsewhere.
type watch struct {
	root      string
	recursive bool
	describe  bool // events carry the entry
	emit      func(*filesystempb.FilesystemEvent)

	kernel *fsnotify.Watcher
	found  found
	scan   *scanner // nil on a local file system
}

// newWatch begins to watch: what happens after it returned will be seen by run.
func newWatch(root string, recursive, describe, remote bool, emit func(*filesystempb.FilesystemEvent)) (*watch, error) {
	kernel, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	w := &watch{root: root, recursive: recursive, describe: describe, emit: emit, kernel: kernel, found: found{}}
	if recursive {
		err = w.addTree(root, nil)
	} else {
		err = kernel.Add(root)
	}
	if err != nil {
		_ = kernel.Close()
		return nil, err
	}
	if remote {
		w.scan = newScanner(root, recursive)
	}
	return w, nil
}

var errStopped = errors.New("the kernel stopped telling of changes")

// run tells of changes until ctx ends, which is no error, or changes were lost, which is one.
func (w *watch) run(ctx context.Context) error {
	defer func() { _ = w.kernel.Close() }()
	var due <-chan time.Time
	if w.scan != nil {
		timer := time.NewTicker(scanEvery)
		defer timer.Stop()
		due = timer.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err, ok := <-w.kernel.Errors:
			if !ok {
				return errStopped
			}
			return err
		case e, ok := <-w.kernel.Events:
			if !ok {
				return errStopped
			}
			w.take(e)
			w.found.expire(time.Now())
		case <-due:
			w.scan.run(ctx, w.tell)
		}
	}
}

// take handles one word of the kernel, which may say several things at once.
func (w *watch) take(e fsnotify.Event) {
	for _, op := range []struct {
		said fsnotify.Op
		kind filesystempb.EventType
	}{
		{fsnotify.Create, filesystempb.EventType_EVENT_TYPE_CREATE},
		{fsnotify.Rename, filesystempb.EventType_EVENT_TYPE_RENAME},
		{fsnotify.Chmod, filesystempb.EventType_EVENT_TYPE_CHMOD},
		{fsnotify.Write, filesystempb.EventType_EVENT_TYPE_WRITE},
		{fsnotify.Remove, filesystempb.EventType_EVENT_TYPE_REMOVE},
	} {
		if !e.Has(op.said) {
			continue
		}
		if w.scan != nil {
			w.scan.saw(e.Name)
		}
		if w.found.forget(e.Name) && op.said == fsnotify.Create {
			continue
		}
		w.tell(e.Name, op.kind)
		if op.said == fsnotify.Create && w.recursive {
			w.enter(e.Name)
		}
	}
}

// enter watches a new directory, and tells of what it got before that.
func (w *watch) enter(path string) {
	if info, err := os.Lstat(path); err != nil || !info.IsDir() {
		return
	}
	_ = w.addTree(path, func(p string) { // if it is gone already, there is nothing to watch
		w.found.note(p)
		if w.scan != nil {
			w.scan.saw(p)
		}
		w.tell(p, filesystempb.EventType_EVENT_TYPE_CREATE)
	})
}

// addTree watches a directory and those below it, and names everything that it finds there. Each directory is watched
// before it is read, so that nothing falls in between. One below that cannot be watched, as a volume whose server has died,
// is left out; that the kernel watches no more is an error.
func (w *watch) addTree(dir string, each func(string)) error {
	if err := w.kernel.Add(dir); err != nil {
		return err
	}
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	for _, d := range list {
		p := filepath.Join(dir, d.Name())
		if each != nil {
			each(p)
		}
		if !d.IsDir() {
			continue
		}
		if err := w.addTree(p, each); full(err) {
			return err
		}
	}
	return nil
}

// full says whether an error is of a limit of this daemon's, and not of what it was to watch.
func full(err error) bool {
	for _, limit := range []error{syscall.ENOSPC, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE} {
		if errors.Is(err, limit) {
			return true
		}
	}
	return false
}

func (w *watch) tell(path string, kind filesystempb.EventType) {
	name, err := filepath.Rel(w.root, path)
	if err != nil {
		name = path
	}
	e := &filesystempb.FilesystemEvent{Name: name, Type: kind}
	if w.describe && kind != filesystempb.EventType_EVENT_TYPE_REMOVE && kind != filesystempb.EventType_EVENT_TYPE_RENAME {
		e.Entry, _ = newNames().describe(path) // it may be gone already
	}
	w.emit(e)
}
