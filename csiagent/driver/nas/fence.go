package nas

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Fence drops what any process of this network namespace sends to the ports of NFS servers, over TCP and UDP. The kernel's own
// client passes: its sockets belong to no process, and so to the root of the cgroup tree, where containers are not. This process
// passes by a mark on its sockets, which takes CAP_NET_ADMIN or CAP_NET_RAW to set; a sandbox with either can leave the fence.
type Fence struct {
	mu    sync.Mutex
	ports []uint16 // that this process has covered
}

// mark is what a socket of this process carries.
const mark = 0x5a6e6173

// usual are the ports of the portmapper, of NFS and of mountd where it has one of its own.
var usual = []uint16{111, defaultPort, 20048}

// Raise sets up the fence in this process's network namespace, which takes CAP_NET_ADMIN, and tries it: no fence is better than one
// that lets through. It stays when this process ends, and with it every port that was covered: volumes that are behind it stay as well.
func Raise() (*Fence, error) {
	f := &Fence{}
	err := f.cover(usual...)
	if err == nil {
		err = holds()
	}
	if errors.Is(err, errPasses) { // else what an earlier process has raised stands
		err = errors.Join(err, dropTable())
	}
	if err != nil {
		return nil, fmt.Errorf("fence NFS: %w", err)
	}
	return f, nil
}

// cover takes in further ports.
func (f *Fence) cover(ports ...uint16) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	fresh := slices.DeleteFunc(slices.Clone(ports), func(p uint16) bool { return slices.Contains(f.ports, p) })
	if len(fresh) == 0 {
		return nil
	}
	if err := addToTable(fresh); err != nil {
		return err
	}
	f.ports = append(f.ports, fresh...)
	return nil
}

// holds sends a datagram as a tenant would, to this very machine: a fence that drops it makes the sending fail.
func holds() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	err = unix.Sendto(fd, []byte{0}, 0, &unix.SockaddrInet4{Port: defaultPort, Addr: [4]byte(net.IPv4(127, 0, 0, 1).To4())})
	switch {
	case errors.Is(err, unix.EPERM):
		return nil
	case err != nil:
		return fmt.Errorf("try it: %w", err)
	}
	return errPasses
}

var errPasses = errors.New("a process passes: this kernel does not tell sockets apart by their cgroup")

// pass lets a socket of this process through the fence.
func pass(c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark) })
	return errors.Join(err, set)
}
