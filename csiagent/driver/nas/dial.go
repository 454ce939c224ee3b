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
	dialer := net.Dialer{Timeout: d.config.DialTimeout, Resolver: d.config.Resolver, Control: func(network, address string, c syscall.RawConn) error {
		if err := d.config.Guard.Control(network, address, c); err != nil || d.config.Fence == nil {
			return err
		}
		return pass(c)
	}}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(v.server, strconv.Itoa(int(v.port))))
	if errors.Is(err, mount.ErrBarred) {
		return server, client, errGuarded
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

var errGuarded = fmt.Errorf("%w: the attribute server leads to an address at which no storage may be: loopback, link-local, a cloud's metadata, the "+
	"cluster's API server, or one that the administrator bars", mount.ErrDenied)
