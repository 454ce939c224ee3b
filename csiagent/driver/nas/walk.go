package nas

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/mount/subdir"
)

// open opens the directory name of dir, and makes a missing one for t's owner unless t is a reader.
func (t task) open(dir int, name string) (int, error) {
	if t.ReadOnly {
		return subdir.Open(dir, name, unix.O_PATH, subdir.Strict)
	}
	mk := subdir.Maker{Owner: mount.Owner{UID: t.UID, GID: t.GID}, Mode: t.Mode, Resolve: subdir.Strict}
	return mk.Open(dir, name)
}

// walk opens the directory rel of dir for t, one component after the other.
func walk(dir int, rel string, t task) (int, error) {
	fd, name, err := subdir.Walk(dir, rel, t.open)
	if err != nil {
		return -1, failed(stepOf(err), name, err)
	}
	return fd, nil
}

func stepOf(err error) step {
	switch {
	case errors.Is(err, subdir.ErrNotMade):
		return stepMake
	case errors.Is(err, subdir.ErrNotGiven):
		return stepGive
	}
	return stepWalk
}

// setMode gives the volume's own directory the mode that is stated.
func setMode(dir int, mode uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return failed(stepMode, "", err)
	}
	if st.Mode&0o7777 == mode {
		return nil
	}
	return failed(stepMode, "", unix.Fchmodat(dir, ".", mode, 0))
}
