package mount

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// Guard says at which addresses no volume's server may be: whoever names a server must not reach, with the agent's hands, what only the
// machine or its owner may talk to. The zero value is the strictest one that needs no knowledge of the installation.
type Guard struct {
	// Loopback lets through servers on the loopback of the machine or the pod that mounts, for tests and development.
	Loopback bool
	// Barred are further networks: the API server's, and what else an administrator keeps from volumes.
	Barred []netip.Prefix
}

// ErrBarred is an address that the guard refuses.
var ErrBarred = errors.New("barred address")

var never = prefixes(
	"0.0.0.0/8", "::/128", "169.254.0.0/16", "fe80::/10", "224.0.0.0/4", "ff00::/8", "255.255.255.255/32",
	"100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::/32", "fd20:ce::254/128", "fd00:42::42/128",
)

// Never are the networks in which no storage is: those that are nobody's, one link's, many machines', and where clouds give a machine its own
// credentials. Neither do sandboxes have anything to seek there.
func Never() []netip.Prefix { return slices.Clone(never) }

var loopback = prefixes("127.0.0.0/8", "::1/128")

// bearers are networks of IPv6 whose addresses hold one of IPv4, with the bytes that do: compatible ones, 6to4, and what translators use
// (RFC 6052). The prefix of local translators is of any length.
var bearers = []struct {
	netip.Prefix
	at [][4]int
}{
	{netip.MustParsePrefix("::/96"), [][4]int{{12, 13, 14, 15}}},
	{netip.MustParsePrefix("2002::/16"), [][4]int{{2, 3, 4, 5}}},
	{netip.MustParsePrefix("64:ff9b::/96"), [][4]int{{12, 13, 14, 15}}},
	{netip.MustParsePrefix("64:ff9b:1::/48"), [][4]int{{6, 7, 9, 10}, {7, 9, 10, 11}, {9, 10, 11, 12}, {12, 13, 14, 15}}},
}

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, p := range list {
		out[i] = netip.MustParsePrefix(p)
	}
	return out
}

// Bar adds a comma-separated list of addresses and networks to Barred; it is for a flag.
func (g *Guard) Bar(list string) error {
	for _, item := range strings.Split(list, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		p, err := netip.ParsePrefix(item)
		if a, wrong := netip.ParseAddr(item); wrong == nil && a.Zone() == "" {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return fmt.Errorf("%q is no address and no network; expected a comma-separated list such as 10.0.0.1,192.0.2.0/24", item)
		}
		if p.Addr().Is4In6() {
			return fmt.Errorf("%q is an IPv4 address in IPv6; write it as IPv4", item)
		}
		g.Barred = append(g.Barred, p)
	}
	return nil
}

// Refuses says whether no volume's server may be at a.
func (g Guard) Refuses(a netip.Addr) bool {
	if !a.IsValid() || a.Zone() != "" {
		return true
	}
	a = a.Unmap()
	for _, b := range bearers {
		if b.Contains(a) && a != netip.IPv6Loopback() && g.refusesAny(a.As16(), b.at) {
			return true
		}
	}
	return within(never, a) || within(g.Barred, a) || !g.Loopback && within(loopback, a)
}

func (g Guard) refusesAny(in [16]byte, places [][4]int) bool {
	return slices.ContainsFunc(places, func(at [4]int) bool {
		return g.Refuses(netip.AddrFrom4([4]byte{in[at[0]], in[at[1]], in[at[2]], in[at[3]]}))
	})
}

func within(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Control is for net.Dialer: it looks at the address that a name has led to, which is the one that is connected to. Its error is ErrBarred.
func (g Guard) Control(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || g.Refuses(to.Addr()) {
		return ErrBarred
	}
	return nil
}

// CheckHost refuses what is barred whoever looks it up: an address, and the name of the loopback. It is ErrBarred. What else a name leads
// to is known when it is dialled.
func (g Guard) CheckHost(host string) error {
	if a, err := netip.ParseAddr(host); err == nil {
		if g.Refuses(a) {
			return ErrBarred
		}
		return nil
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if !g.Loopback && (name == "localhost" || strings.HasSuffix(name, ".localhost")) {
		return ErrBarred
	}
	return nil
}

var (
	hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)
	// number is a last label that makes some resolvers read the whole name as an address: 2130706433, 127.1, 0x7f.1.
	number = regexp.MustCompile(`(^|\.)(0[xX][0-9A-Fa-f]*|[0-9]+)$`)
)

const maxHost = 253

// ValidHost says whether text is a host's name or address, without a zone.
func ValidHost(text string) bool {
	if a, err := netip.ParseAddr(text); err == nil {
		return a.Zone() == ""
	}
	return len(text) <= maxHost && hostName.MatchString(text) && !number.MatchString(text)
}
