package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// addresses are this machine's own IPv4 addresses, each as a network of one.
func addresses() ([]netip.Prefix, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of this machine: %w", err)
	}
	var out []netip.Prefix
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
			out = append(out, netip.PrefixFrom(p.Addr(), 32))
		}
	}
	return out, nil
}

// The routes that bar are in a table of their own, which is looked at before the main one. There pasta may have put what this machine's own
// table has, such as a cloud's route to its metadata service, and the most exact route of a table is the one that counts.
const (
	barTable    = 100
	barPriority = 1
)

// bar makes networks unreachable inside by a route each.
func (n *Namespace) bar(networks []netip.Prefix) error {
	fd, err := n.socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("bar networks: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := request(fd, rule()); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("bar networks: add a routing rule, which needs a kernel with CONFIG_IP_MULTIPLE_TABLES: %w", err)
	}
	for _, p := range networks {
		if err := request(fd, unreachable(p)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("bar network %s: %w", p, err)
		}
	}
	return nil
}

// rule is the netlink message that has barTable looked at first. Rules are numbered, and one that is there already is an error.
func rule() []byte {
	const toTable = 1 // FR_ACT_TO_TBL
	header := []byte{unix.AF_INET, 0, 0, 0, barTable, 0, 0, toTable, 0, 0, 0, 0}
	return message(unix.RTM_NEWRULE, unix.NLM_F_EXCL, header, unix.FRA_PRIORITY, binary.NativeEndian.AppendUint32(nil, barPriority))
}

// unreachable is the netlink message that adds a route to nowhere.
func unreachable(p netip.Prefix) []byte {
	header := []byte{unix.AF_INET, byte(p.Bits()), 0, 0, barTable, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNREACHABLE, 0, 0, 0, 0}
	return message(unix.RTM_NEWROUTE, unix.NLM_F_REPLACE, header, unix.RTA_DST, p.Masked().Addr().AsSlice())
}

// message is a netlink message that makes something and is acknowledged, with one attribute of four bytes.
func message(kind, flags uint16, header []byte, attribute uint16, value []byte) []byte {
	size := unix.SizeofNlMsghdr + len(header) + unix.SizeofRtAttr + len(value)
	b := binary.NativeEndian.AppendUint32(nil, uint32(size))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE|flags)
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 0) // a sequence number, and the kernel's address
	b = append(b, header...)
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, attribute)
	return append(b, value...)
}

// request sends one message and reads the kernel's answer, which it gives at once.
func request(fd int, message []byte) error {
	if err := unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	size, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	if size < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("the kernel's answer is no acknowledgement")
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}
