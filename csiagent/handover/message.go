//go:build linux

package handover

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// receive reads one message and returns its one descriptor. Whatever else comes with it is closed.
func receive(c *net.UnixConn) (*os.File, error) {
	buf := make([]byte, 2)
	oob := make([]byte, unix.CmsgSpace(8*4))
	// The package net asks for close-on-exec descriptors.
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, ErrSilent
	}
	// An empty message reads as the end of the connection, but may bring descriptors.
	fds, malformed := descriptors(oob[:oobn])
	whole := flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) == 0
	if err == nil && malformed == nil && whole && n == 1 && len(fds) == 1 {
		return os.NewFile(uintptr(fds[0]), "mnt"), nil
	}
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	return nil, fmt.Errorf("%w: got %d bytes and %d descriptors", ErrMessage, n, len(fds))
}

func descriptors(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	var other error
	for _, m := range messages {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			other = err
			continue
		}
		fds = append(fds, got...)
	}
	return fds, other
}
