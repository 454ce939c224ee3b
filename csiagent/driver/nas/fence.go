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
	level uint32 // of the cgroup that sockets are told apart by
	ports []uint16
}

// mark is what a socket of this process carries.
const mark = 0x5a6e6173

// usual are the ports of the portmapper, of NFS and of mountd where it has one of its own.
var usual = []uint16{111, defaultPort, 20048}

// Raise sets up the fence in this process's network namespace, which takes CAP_NET_ADMIN, and tries it: no fence is better than one
// that lets through. It stays when this process ends; raising it again replaces it.
func Raise() (*Fence, error) {
	var tried []error
	// Before Linux 6.12 levels count from the root, since then from the root of the cgroup namespace of who sets them up.
	for _, level := range []uint32{0, 1} {
		f := &Fence{level: level}
		err := f.cover(usual...)
		if err == nil {
			err = holds()
		}
		if err == nil {
			return f, nil
		}
		tried = append(tried, err)
	}
	return nil, fmt.Errorf("fence NFS: %w", errors.Join(append(tried, dropTable())...))
}

// cover takes in further ports.
func (f *Fence) cover(ports ...uint16) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := slices.Clone(f.ports)
	for _, p := range ports {
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	if len(all) == len(f.ports) {
		return nil
	}
	if err := replaceTable(f.level, all); err != nil {
		return err
	}
	f.ports = all
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
	if !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("a process passes: this kernel does not tell sockets apart by their cgroup (sent: %w)", errOr(err))
	}
	return nil
}

var errSent = errors.New("no error")

func errOr(err error) error {
	if err == nil {
		return errSent
	}
	return err
}

// pass lets a socket of this process through the fence.
func pass(c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark) })
	return errors.Join(err, set)
}
