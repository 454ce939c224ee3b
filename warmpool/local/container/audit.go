package container

import (
	"errors"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// withoutAudit makes the kernel's audit socket look as if it did not exist. Without CAP_AUDIT_WRITE, which would let a tenant
// write into the machine's audit log, sudo complains on stderr at every call when it can open that socket; a kernel without audit
// it takes as it is.
func withoutAudit(profile *specs.LinuxSeccomp) error {
	at := slices.IndexFunc(profile.Syscalls, func(s specs.LinuxSyscall) bool {
		return slices.Equal(s.Names, []string{"socket"}) && s.Action == specs.ActAllow &&
			slices.Equal(s.Args, []specs.LinuxSeccompArg{netlink})
	})
	if at < 0 {
		return errors.New("no rule allows netlink sockets alone, so audit cannot be cut out of it")
	}
	others := specs.LinuxSeccompArg{Index: 2, Value: unix.NETLINK_AUDIT, Op: specs.OpNotEqual}
	audit := specs.LinuxSeccompArg{Index: 2, Value: unix.NETLINK_AUDIT, Op: specs.OpEqualTo}
	errno := uint(unix.EPROTONOSUPPORT)
	profile.Syscalls = slices.Replace(profile.Syscalls, at, at+1,
		specs.LinuxSyscall{Names: []string{"socket"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{netlink, others}},
		specs.LinuxSyscall{Names: []string{"socket"}, Action: specs.ActErrno, ErrnoRet: &errno, Args: []specs.LinuxSeccompArg{netlink, audit}})
	return nil
}

var netlink = specs.LinuxSeccompArg{Index: 0, Value: unix.AF_NETLINK, Op: specs.OpEqualTo}
