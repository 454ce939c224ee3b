package account

import (
	"errors"
	"syscall"
)

// errNotDir is the kernel's own word, so that callers can ask errors.Is(err, syscall.ENOTDIR).
var errNotDir error = syscall.ENOTDIR

// ignoreFixedOwner forgives a chown that cannot work: some mounts (object stores, squashing NFS servers, /proc) fix
// the owner of all they hold, and without root nobody may give files away. The file itself is fine in each case.
func ignoreFixedOwner(err error) error {
	for _, fixed := range []error{syscall.EPERM, syscall.ENOTSUP, syscall.ENOSYS, syscall.EINVAL} {
		if errors.Is(err, fixed) {
			return nil
		}
	}
	return err
}
