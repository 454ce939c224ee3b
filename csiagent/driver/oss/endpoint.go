package oss

import (
	"net/netip"
	"strconv"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// Endpoint is where the store of a volume listens. Its credentials are not looked at.
func Endpoint(m mount.Mount) (mount.Endpoint, error) {
	a, err := attributes(m.Attributes)
	if err != nil {
		return mount.Endpoint{}, err
	}
	u, err := endpoint(a["url"], a["bucket"])
	if err != nil {
		return mount.Endpoint{}, err
	}
	port := uint64(443)
	if u.Scheme == "http" {
		port = 80
	}
	if text := u.Port(); text != "" {
		if port, err = strconv.ParseUint(text, 10, 16); err != nil || port == 0 {
			return mount.Endpoint{}, invalid("the attribute url must have a port from 1 to 65535")
		}
	}
	out := mount.Endpoint{Hosts: []string{u.Hostname()}, Ports: []uint16{uint16(port)}}
	if _, err := netip.ParseAddr(u.Hostname()); err != nil && a["bucket"] != "" {
		out.Hosts = append(out.Hosts, a["bucket"]+"."+u.Hostname()) // where stores that have a name for each bucket are asked
	}
	return out, nil
}
