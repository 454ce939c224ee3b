package nas

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// classify says in the caller's words why a volume could not be mounted.
func classify(v volume, ans answer) error {
	module := "nfsv" + v.version[:1]
	of := func(kind error, format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{kind}, args...)...)
	}
	switch ans.Step {
	case stepOpen:
		if ans.Errno == unix.ENODEV {
			return of(mount.ErrUnavailable, "this node's kernel has no NFS client; load its modules nfs and %s on the node", module)
		}
	case stepOption:
		return of(mount.ErrInvalid, "this node's kernel refuses the mount option %q", ans.Field)
	case stepMount:
		return v.refusal(ans.Errno, module, of)
	case stepWalk:
		return walked(ans, of)
	case stepMake:
		return made(ans, of)
	case stepGive:
		return of(mount.ErrDenied, "the server does not let the agent give the new directory %q to user %d (it squashes root); make it on the "+
			"server, export with no_root_squash, or state the attribute mode 0777", ans.Field, v.owner.UID)
	case stepMode:
		return of(mount.ErrDenied, "the server does not let the agent set the attribute mode; remove it, or set it on the server")
	}
	return fmt.Errorf("NFS volume: step %q: %w", ans.Step, ans.Errno)
}

type wording func(kind error, format string, args ...any) error

func (v *volume) refusal(errno unix.Errno, module string, of wording) error {
	switch errno {
	case unix.ENOENT:
		return of(mount.ErrNotFound, "the server has no directory as the attribute path says, or does not export it")
	case unix.EACCES:
		return of(mount.ErrDenied, "the server does not export the attribute path to this pod's address")
	case unix.EPERM:
		return of(mount.ErrDenied, "the server does not serve this pod's address and port; state the mount option resvport, or export "+
			"with insecure")
	case unix.ENOTDIR:
		return of(mount.ErrInvalid, "the attribute path is not a directory on the server")
	case unix.EPROTONOSUPPORT, unix.EOPNOTSUPP, unix.EPFNOSUPPORT:
		return of(mount.ErrInvalid, "version %s is not spoken by the server, or not by this node's kernel for want of its module %s; "+
			"state another vers", v.version, module)
	case unix.EINVAL:
		return of(mount.ErrInvalid, "the server or this node's kernel refuses the mount options together")
	case unix.EROFS:
		return of(mount.ErrDenied, "the server exports the attribute path for reading only")
	}
	return of(mount.ErrUnavailable, "the server at the attribute server does not answer as an NFS server")
}

func walked(ans answer, of wording) error {
	switch ans.Errno {
	case unix.ENOENT:
		return of(mount.ErrNotFound, "the directory %q of the sub path does not exist, and is not made for a reader", ans.Field)
	case unix.ELOOP, unix.EXDEV:
		return of(mount.ErrDenied, "the component %q of the path is a symbolic link or leads elsewhere", ans.Field)
	case unix.ENOTDIR:
		return of(mount.ErrInvalid, "the component %q of the path is not a directory", ans.Field)
	case unix.EACCES, unix.EPERM:
		return of(mount.ErrDenied, "the server does not let the agent into the directory %q", ans.Field)
	}
	return of(mount.ErrUnavailable, "the directory %q of the path cannot be opened", ans.Field)
}

func made(ans answer, of wording) error {
	switch ans.Errno {
	case unix.EACCES, unix.EPERM, unix.EROFS:
		return of(mount.ErrDenied, "the server does not let the agent make the directory %q; make it on the server, or export with "+
			"no_root_squash", ans.Field)
	case unix.ENOSPC, unix.EDQUOT:
		return of(mount.ErrUnavailable, "there is no room on the server for the directory %q", ans.Field)
	}
	return of(mount.ErrUnavailable, "the directory %q cannot be made", ans.Field)
}
