package nas

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// table is the one that is ours in the network namespace, with a chain of rules and a set of ports.
const (
	table   = "sandgate_nas"
	chain   = "out"
	portSet = "ports"
)

// What x/sys has no names for, from linux/netfilter/nf_tables.h.
const (
	exprSocket       = "socket"
	socketKey        = 1 // NFTA_SOCKET_KEY
	socketDreg       = 2
	socketLevel      = 3
	socketCgroupV2   = 3 // NFT_SOCKET_CGROUPV2
	verdictDrop      = 0 // NF_DROP
	inputIsTransport = 2 // NFT_PAYLOAD_TRANSPORT_HEADER
	hookOutput       = 3 // NF_INET_LOCAL_OUT
	rootCgroup       = 1 // the ID of the root of the cgroup tree
	sizeofNfgenmsg   = 4
	inetService      = 13 // what nft calls the type of ports
)

// addToTable has our table drop what processes send to ports, besides what it drops already, whoever has set it up. It is one
// transaction: there is no moment in which the table drops less.
//
//	table inet sandgate_nas {
//	  set ports { type inet_service; elements = { PORT, ... } }
//	  chain out { type filter hook output priority 0;
//	    meta l4proto tcp th dport @ports meta mark != MARK socket cgroupv2 level LEVEL != ROOT drop   (and udp, for each level)
//	  }
//	}
//
// A socket without a cgroup at LEVEL does not match: that is the kernel's.
func addToTable(ports []uint16) error {
	b := begin()
	b.nft(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, text(unix.NFTA_TABLE_NAME, table))
	b.nft(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, join(
		text(unix.NFTA_SET_TABLE, table), text(unix.NFTA_SET_NAME, portSet), big32(unix.NFTA_SET_ID, 1),
		big32(unix.NFTA_SET_KEY_TYPE, inetService), big32(unix.NFTA_SET_KEY_LEN, 2),
	))
	b.nft(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, join(
		text(unix.NFTA_SET_ELEM_LIST_TABLE, table), text(unix.NFTA_SET_ELEM_LIST_SET, portSet), nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, elements(ports)...),
	))
	b.nft(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, join(
		text(unix.NFTA_CHAIN_TABLE, table), text(unix.NFTA_CHAIN_NAME, chain), text(unix.NFTA_CHAIN_TYPE, "filter"),
		nest(unix.NFTA_CHAIN_HOOK, big32(unix.NFTA_HOOK_HOOKNUM, hookOutput), big32(unix.NFTA_HOOK_PRIORITY, 0)),
	))
	b.nft(unix.NFT_MSG_DELRULE, 0, join(text(unix.NFTA_RULE_TABLE, table), text(unix.NFTA_RULE_CHAIN, chain))) // all of them
	for _, level := range levels {
		for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			b.nft(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, join(
				text(unix.NFTA_RULE_TABLE, table), text(unix.NFTA_RULE_CHAIN, chain), nest(unix.NFTA_RULE_EXPRESSIONS, rule(level, proto)...),
			))
		}
	}
	return b.commit()
}

// levels are those of the cgroup tree at which processes are told from the kernel. Before Linux 6.12 they count from the root, where all
// are alike, and since then from the root of the cgroup namespace of who sets them up, which need not be that of the tree. Both hold
// everywhere, since the kernel's sockets are at no level but the root's.
var levels = []uint32{0, 1}

func elements(ports []uint16) (out [][]byte) {
	for _, p := range ports {
		key := attribute(unix.NFTA_DATA_VALUE, binary.BigEndian.AppendUint16(nil, p))
		out = append(out, nest(unix.NFTA_LIST_ELEM, nest(unix.NFTA_SET_ELEM_KEY, key)))
	}
	return out
}

// dropTable removes our table, which it makes first, so that there is one to remove.
func dropTable() error {
	b := begin()
	name := text(unix.NFTA_TABLE_NAME, table)
	b.nft(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, name)
	b.nft(unix.NFT_MSG_DELTABLE, 0, name)
	return b.commit()
}

func rule(level uint32, proto byte) [][]byte {
	return [][]byte{
		expression("meta", big32(unix.NFTA_META_KEY, unix.NFT_META_L4PROTO), big32(unix.NFTA_META_DREG, unix.NFT_REG_1)),
		compare(unix.NFT_CMP_EQ, []byte{proto}),
		expression("payload", big32(unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1), big32(unix.NFTA_PAYLOAD_BASE, inputIsTransport),
			big32(unix.NFTA_PAYLOAD_OFFSET, 2), big32(unix.NFTA_PAYLOAD_LEN, 2)),
		expression("lookup", text(unix.NFTA_LOOKUP_SET, portSet), big32(unix.NFTA_LOOKUP_SREG, unix.NFT_REG_1)),
		expression("meta", big32(unix.NFTA_META_KEY, unix.NFT_META_MARK), big32(unix.NFTA_META_DREG, unix.NFT_REG_1)),
		compare(unix.NFT_CMP_NEQ, binary.NativeEndian.AppendUint32(nil, mark)),
		expression(exprSocket, big32(socketKey, socketCgroupV2), big32(socketDreg, unix.NFT_REG_1), big32(socketLevel, level)),
		compare(unix.NFT_CMP_NEQ, binary.NativeEndian.AppendUint64(nil, rootCgroup)),
		expression("immediate", big32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT),
			nest(unix.NFTA_IMMEDIATE_DATA, nest(unix.NFTA_DATA_VERDICT, big32(unix.NFTA_VERDICT_CODE, verdictDrop)))),
	}
}

func expression(name string, attrs ...[]byte) []byte {
	return nest(unix.NFTA_LIST_ELEM, text(unix.NFTA_EXPR_NAME, name), nest(unix.NFTA_EXPR_DATA, attrs...))
}

func compare(op uint32, value []byte) []byte {
	return expression("cmp", big32(unix.NFTA_CMP_SREG, unix.NFT_REG_1), big32(unix.NFTA_CMP_OP, op),
		nest(unix.NFTA_CMP_DATA, attribute(unix.NFTA_DATA_VALUE, value)))
}

func attribute(kind uint16, value []byte) []byte {
	out := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofNlAttr+len(value))) //nolint:gosec // ours are short
	out = binary.NativeEndian.AppendUint16(out, kind)
	return pad(append(out, value...))
}

func nest(kind uint16, attrs ...[]byte) []byte {
	return attribute(kind|unix.NLA_F_NESTED, join(attrs...))
}

func text(kind uint16, s string) []byte { return attribute(kind, append([]byte(s), 0)) }

func big32(kind uint16, v uint32) []byte {
	return attribute(kind, binary.BigEndian.AppendUint32(nil, v))
}

func join(parts ...[]byte) (out []byte) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func pad(b []byte) []byte {
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// batch is a transaction of netfilter messages.
type batch struct {
	data []byte
	acks int
	seq  uint32
}

func begin() *batch {
	b := &batch{}
	b.add(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)
	return b
}

func (b *batch) commit() error {
	b.add(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)
	return b.send()
}

func (b *batch) nft(kind, flags uint16, attrs []byte) {
	b.add(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags|unix.NLM_F_ACK, unix.NFPROTO_INET, 0, attrs)
}

func (b *batch) add(kind, flags uint16, family byte, resource uint16, attrs []byte) {
	b.seq++
	if flags&unix.NLM_F_ACK != 0 {
		b.acks++
	}
	m := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+sizeofNfgenmsg+len(attrs))) //nolint:gosec // ours are short
	m = binary.NativeEndian.AppendUint16(m, kind)
	m = binary.NativeEndian.AppendUint16(m, flags|unix.NLM_F_REQUEST)
	m = binary.NativeEndian.AppendUint32(m, b.seq)
	m = binary.NativeEndian.AppendUint32(m, 0)
	m = append(m, family, unix.NFNETLINK_V0)
	m = binary.BigEndian.AppendUint16(m, resource)
	b.data = append(b.data, pad(append(m, attrs...))...)
}

// netlinkPatience is how long the kernel may take; it answers before the sending returns.
const netlinkPatience = 5

// send sends the batch and reads an answer for every message that wants one.
func (b *batch) send() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: netlinkPatience}),
		unix.Sendto(fd, b.data, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
	)
	buf := make([]byte, 64<<10)
	for left := b.acks; err == nil && left > 0; {
		var n int
		if n, _, err = unix.Recvfrom(fd, buf, 0); err == nil {
			var got int
			got, err = acknowledged(buf[:n])
			left -= got
		}
	}
	if err != nil {
		return fmt.Errorf("nftables (it takes NET_ADMIN, and the kernel's nf_tables and nft_socket): %w", err)
	}
	return nil
}

// acknowledged counts the answers in a datagram; the first that is an error is returned.
func acknowledged(data []byte) (n int, err error) {
	const code = unix.SizeofNlMsghdr + 4
	for len(data) >= code {
		length := binary.NativeEndian.Uint32(data)
		if binary.NativeEndian.Uint16(data[4:]) == unix.NLMSG_ERROR {
			if errno := int32(binary.NativeEndian.Uint32(data[unix.SizeofNlMsghdr:])); errno != 0 { //nolint:gosec // it is negative
				return n, unix.Errno(-errno)
			}
			n++
		}
		next := (int(length) + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1)
		if length < unix.SizeofNlMsghdr || next > len(data) {
			break
		}
		data = data[next:]
	}
	return n, nil
}
