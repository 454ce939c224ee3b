package rootfs

import (
	"os"

	"golang.org/x/sys/unix"
)

const (
	// namesAtOnce are read of a directory before they are looked at: its tenant decides how many it has.
	namesAtOnce = 512
	// deepest is how far down Size goes; each level takes a descriptor.
	deepest = 128
)

// Size counts the bytes that trees occupy on the disk. Their tenant shapes them as he likes, also meanwhile: Size never enters a mount, never
// follows a link, waits for nothing, and takes memory for some names only, however many a directory has. It stops counting when it has seen as
// many entries as most says, and leaves out what is very deep or vanishes.
func Size(most int, trees ...string) int64 {
	c := count{left: most}
	for _, tree := range trees {
		if top, err := os.OpenFile(tree, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err == nil {
			c.below(top, 1)
			_ = top.Close()
		}
	}
	return c.bytes
}

// count is how many entries may still be looked at, and what those that were occupy.
type count struct {
	left  int
	bytes int64
}

// below counts what is in dir.
func (c *count) below(dir *os.File, depth int) {
	for c.left > 0 {
		names, err := dir.Readdirnames(min(namesAtOnce, c.left))
		if err != nil { // the end, for one
			return
		}
		for _, name := range names {
			if c.left == 0 {
				return
			}
			c.left--
			c.add(dir, name, depth)
		}
	}
}

func (c *count) add(dir *os.File, name string, depth int) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT); err != nil {
		return
	}
	c.bytes += st.Blocks * 512
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || depth == deepest {
		return
	}
	if sub, err := enter(dir, name); err == nil {
		c.below(sub, depth+1)
		_ = sub.Close()
	}
}
