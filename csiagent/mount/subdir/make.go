package subdir

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// What a missing directory failed at, compared with errors.Is; the errno is in the same error. Any other error is one of opening.
var (
	ErrNotMade  = errors.New("make directory")
	ErrNotGiven = errors.New("give directory to its owner")
)

// Maker opens directories and makes the missing ones.
type Maker struct {
	// Owner gets the directories that are made, with Mode. Those that exist are left as they are.
	Owner mount.Owner
	Mode  uint32
	// Resolve is Open's.
	Resolve uint64
}

// first is the mode that a directory is made with. It tells one that was made here from any other, which somebody may put in its place before
// it is opened: nobody else has a use for a sticky bit where not even the owner may write. It lets him read, since a server may have made
// the directory for somebody else than root, and neither a umask nor a default ACL takes anything from it.
const first = 0o1500

// Open opens the directory name of dir, O_PATH.
func (m Maker) Open(dir int, name string) (int, error) {
	fd, err := Open(dir, name, unix.O_PATH, m.Resolve)
	made := false
	if errors.Is(err, unix.ENOENT) {
		fd, made, err = m.add(dir, name)
	}
	if err != nil {
		return -1, err
	}
	err = m.finish(fd, made)
	if errors.Is(err, ErrNotGiven) {
		_ = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) // it would be in the way of whoever mends this
	}
	if err != nil {
		closeFD(fd)
		return -1, err
	}
	return fd, nil
}

// add opens a directory that was missing, whoever has made it.
func (m Maker) add(dir int, name string) (fd int, made bool, err error) {
	err = unix.Mkdirat(dir, name, first)
	made = err == nil
	if made || errors.Is(err, unix.EEXIST) {
		fd, err = Open(dir, name, unix.O_PATH, m.Resolve)
	}
	if err != nil {
		return -1, made, fmt.Errorf("%w: %w", ErrNotMade, err)
	}
	return fd, made, nil
}

// finish gives a new directory away. Whoever comes by does it, for him who has made the directory, is slower or has ended: nothing is in
// one before it is given away. What is not new is left as it is, as are all directories of a file system that has one mode for
// everything in it, as FUSE clients are told by umask.
func (m Maker) finish(dir int, made bool) error {
	st, err := stat(dir, unix.AT_STATX_SYNC_AS_STAT)
	if err != nil || !isNew(st, made) {
		return err
	}
	err = m.give(dir, made)
	if err != nil && !errors.Is(err, ErrNotGiven) {
		err = fmt.Errorf("%w: %w", ErrNotMade, err)
	}
	return err
}

func (m Maker) give(dir int, made bool) error {
	fd, err := Open(dir, ".", unix.O_RDONLY, m.Resolve)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	if bare, err := Empty(fd); err != nil || !bare {
		return err
	}
	// Last, and not from a cache: who has it by now may have changed its mode.
	st, err := stat(fd, unix.AT_STATX_FORCE_SYNC)
	if err != nil || !isNew(st, made) {
		return err
	}
	// While it is still ours: to change the mode of another one's takes a capability that the agent in a pod does not have.
	if err := unix.Fchmod(fd, m.Mode); err != nil {
		if st, e := stat(fd, unix.AT_STATX_FORCE_SYNC); e == nil && !isNew(st, made) {
			return nil // somebody else was faster
		}
		return err
	}
	if st.Uid == m.Owner.UID && st.Gid == m.Owner.GID {
		return nil
	}
	err = unix.Fchown(fd, int(m.Owner.UID), int(m.Owner.GID))
	if err == nil || errors.Is(err, unix.EPERM) && m.Mode&0o007 == 0o007 {
		return nil // a server that squashes root does not let us, which is no harm where anybody may write
	}
	return fmt.Errorf("%w, %d:%d: %w", ErrNotGiven, m.Owner.UID, m.Owner.GID, err)
}

// isNew says whether a directory was made here and is not given away yet. Some file systems drop the sticky bit of what they make: he who has
// made the directory does without. The set-group-ID bit comes from the directory above.
func isNew(st unix.Statx_t, made bool) bool {
	return st.Mode&0o1777 == first || made && st.Mode&0o1777 == first&0o777
}

func stat(dir, sync int) (unix.Statx_t, error) {
	var st unix.Statx_t
	err := unix.Statx(dir, "", unix.AT_EMPTY_PATH|sync, unix.STATX_MODE|unix.STATX_UID|unix.STATX_GID, &st)
	return st, err
}
