package nas

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// dial finds the server and says whether anybody listens there: the kernel would try for minutes. It returns both ends of the
// connection. The server must not be an address that only this machine's owner may talk to.
func (d *Driver) dial(ctx context.Context, v volume) (server, client netip.Addr, err error) {
	dialer := net.Dialer{Timeout: d.config.DialTimeout, Control: func(_, address string, c syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		switch {
		case err != nil || forbidden(to.Addr().Unmap()):
			return errForbidden
		case d.config.Fence != nil:
			return pass(c)
		}
		return nil
	}}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(v.server, strconv.Itoa(int(v.port))))
	if errors.Is(err, errForbidden) {
		return server, client, fmt.Errorf("%w: the attribute server leads to an address that cannot be a storage server", mount.ErrDenied)
	}
	if err != nil {
		d.config.Logger.InfoContext(ctx, "NFS server unreachable", "server", v.server, "error", err)
		return server, client, fmt.Errorf("%w: nobody answers at the attribute server, port %d", mount.ErrUnavailable, v.port)
	}
	server, client = address(conn.RemoteAddr()), address(conn.LocalAddr())
	return server, client, conn.Close()
}

func address(a net.Addr) netip.Addr {
	tcp, _ := a.(*net.TCPAddr)
	return tcp.AddrPort().Addr().Unmap()
}

var errForbidden = errors.New("forbidden address")

// forbidden are addresses at which clouds serve a machine's own credentials, and those that are nobody's.
func forbidden(a netip.Addr) bool {
	return a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() || a == netip.AddrFrom4([4]byte{100, 100, 100, 200})
}
