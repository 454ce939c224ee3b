//go:build linux

package attach

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// firstUnique is the smallest of the mount IDs that are never used twice; the kernel counts the others from 1.
const firstUnique = 1 << 31

// statmount(2), which golang.org/x/sys does not wrap: the request's first version, what is asked for and where the answer has it.
const (
	requestSize = 24
	mountBasic  = 0x2
	answerSize  = 512
	answerOldID = 56
)

// tableID is the ID by which the mount table lists the mount id, or false when this thread's namespace has no such mount.
func tableID(id uint64) (uint64, bool, error) {
	if id < firstUnique {
		return id, true, nil // the kernel has no other
	}
	req := struct {
		size, _   uint32
		id, param uint64
	}{size: requestSize, id: id, param: mountBasic}
	var answer [answerSize]byte
	_, _, errno := unix.Syscall6(unix.SYS_STATMOUNT, uintptr(unsafe.Pointer(&req)), uintptr(unsafe.Pointer(&answer)), answerSize, 0, 0, 0)
	if errors.Is(errno, unix.ENOENT) {
		return 0, false, nil
	}
	if errno != 0 {
		return 0, false, fmt.Errorf("look mount up: %w", errno)
	}
	return uint64(binary.NativeEndian.Uint32(answer[answerOldID:])), true, nil
}
