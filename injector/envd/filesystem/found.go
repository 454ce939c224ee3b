package filesystem

import (
	"os"
	"syscall"
	"time"
)

// found are entries that a new directory had before the kernel watched it, or while it began to. Their creation was
// told; of some the kernel tells it once more, and soon. What it tells of another file that took such a name, as a
// file that is written beside and moved into place, is news.
type found struct {
	entries map[string]inode
	latest  time.Time
}

type inode struct{ dev, ino uint64 }

// settled is how long after the last entry was found the kernel has told all that it had to tell of them.
const settled = 10 * time.Second

func (f *found) note(path string) {
	if f.entries == nil {
		f.entries = map[string]inode{}
	}
	f.entries[path], _ = identify(path) // one that is gone by now is equal to none
	f.latest = time.Now()
}

// forget is called when the kernel tells of path. It says whether that is the entry which was found there; of one that
// is gone by now the kernel will tell so.
func (f *found) forget(path string) bool {
	was, ok := f.entries[path]
	if !ok {
		return false
	}
	delete(f.entries, path)
	is, err := identify(path)
	return err != nil || is == was
}

// expire lets go of entries of which the kernel told nothing. A large tree that appeared leaves many.
func (f *found) expire(now time.Time) {
	if f.entries != nil && now.Sub(f.latest) > settled {
		f.entries = nil
	}
}

func identify(path string) (inode, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return inode{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return inode{}, os.ErrInvalid
	}
	return inode{st.Dev, st.Ino}, nil
}
