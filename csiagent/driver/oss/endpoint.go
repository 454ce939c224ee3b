package oss

import (
	"net/netip"
	"net/url"
	"strconv"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// Endpoints says where the store of a volume listens and, of one with a role, where agents sign in for it: at sts, which is zero where they
// have no such service. The credentials are not looked at.
func Endpoints(sts mount.Endpoint) func(mount.Mount) ([]mount.Endpoint, error) {
	return func(m mount.Mount) ([]mount.Endpoint, error) {
		a, err := attributes(m.Attributes)
		if err != nil {
			return nil, err
		}
		u, err := endpoint(a["url"], a["bucket"])
		if err != nil {
			return nil, err
		}
		store, err := listener(u, "the attribute url")
		if err != nil {
			return nil, err
		}
		if _, err := netip.ParseAddr(u.Hostname()); err != nil && a["bucket"] != "" {
			store.Hosts = append(store.Hosts, a["bucket"]+"."+u.Hostname()) // where stores that have a name for each bucket are asked
		}
		out := []mount.Endpoint{store}
		if a["authtype"] == "rrsa" && len(sts.Hosts) > 0 { // without the service nobody mounts it, which the agent says
			out = append(out, sts)
		}
		return out, nil
	}
}

// STS is where the token service of an https URL listens, which is OIDC's Endpoint.
func STS(text string) (mount.Endpoint, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.User != nil || !mount.ValidHost(u.Hostname()) {
		return mount.Endpoint{}, invalid("the endpoint of the token service must be an https URL with a host and without credentials")
	}
	return listener(u, "the endpoint of the token service")
}

// listener is the host of a URL, and its port or that of its scheme.
func listener(u *url.URL, what string) (mount.Endpoint, error) {
	port := uint64(443)
	if u.Scheme == "http" {
		port = 80
	}
	if text := u.Port(); text != "" {
		var err error
		if port, err = strconv.ParseUint(text, 10, 16); err != nil || port == 0 {
			return mount.Endpoint{}, invalid("%s must have a port from 1 to 65535", what)
		}
	}
	return mount.Endpoint{Hosts: []string{u.Hostname()}, Ports: []uint16{uint16(port)}}, nil
}
