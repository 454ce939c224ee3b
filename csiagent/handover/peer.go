//go:build linux

package handover

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// peer returns a descriptor of the process that made a connection, which becomes readable when that ends. ENOPROTOOPT before Linux 6.5;
// another error when it has ended.
func peer(c *net.UnixConn) (*os.File, error) {
	conn, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var pidfd int
	var got error
	err = conn.Control(func(fd uintptr) { pidfd, got = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD) })
	if err != nil {
		return nil, err
	}
	if got != nil {
		return nil, got
	}
	if err := unix.SetNonblock(pidfd, true); err != nil { // so that many can be waited for by one thread
		_ = unix.Close(pidfd)
		return nil, err
	}
	return os.NewFile(uintptr(pidfd), "sender"), nil
}
