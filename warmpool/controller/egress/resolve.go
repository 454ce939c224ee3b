package egress

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

// pass is one look at one set's volumes.
type pass struct {
	*Reconciler
	memory *memory
	now    time.Time

	places     []place
	names      map[string]bool // that were looked up
	complaints []string
}

// place is a server's addresses with the ports that are needed of it.
type place struct {
	addresses []netip.Addr
	ports     []uint16
}

// lookUpTime bounds one look-up of a name.
const lookUpTime = 5 * time.Second

func (p *pass) complain(pv, format string, args ...any) {
	p.complaints = append(p.complaints, fmt.Sprintf("volume %s: ", pv)+fmt.Sprintf(format, args...))
}

// gather finds the servers of volumes. What is wrong with one of them is a complaint; an error is the API server's.
func (p *pass) gather(ctx context.Context, names []string) error {
	for _, name := range names {
		var pv corev1.PersistentVolume
		err := p.cfg.Client.Get(ctx, client.ObjectKey{Name: name}, &pv)
		if apierrors.IsNotFound(err) {
			p.complain(name, "there is no such PersistentVolume")
			continue
		}
		if err != nil {
			return fmt.Errorf("read PersistentVolume %s: %w", name, err)
		}
		m := volume.Storage(&pv)
		find := p.cfg.Endpoints[m.Driver]
		if find == nil {
			p.complain(name, "where driver %q has its servers is not known here; allow them by hand (networkPolicy.allow)", m.Driver)
			continue
		}
		at, err := find(m)
		if err != nil {
			p.complain(name, "%v", err)
			continue
		}
		for _, e := range at {
			if found := p.addresses(ctx, name, e); len(found) > 0 {
				p.places = append(p.places, place{found, e.Ports})
			}
		}
	}
	return nil
}

// addresses are those of a server, by any of its names.
func (p *pass) addresses(ctx context.Context, pv string, at mount.Endpoint) (out []netip.Addr) {
	barred := false
	add := func(a netip.Addr) {
		if a = a.Unmap(); p.cfg.Guard.Refuses(a) {
			barred = true
		} else if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	for _, host := range at.Hosts {
		if a, err := netip.ParseAddr(host); err == nil {
			add(a)
			continue
		}
		p.lookUp(ctx, host)
		for a := range p.memory.seen[host] {
			add(a)
		}
	}
	switch {
	case barred:
		p.complain(pv, "it leads to an address at which no volume's server may be; that one is not let through")
	case len(at.Hosts) > 0 && len(out) == 0:
		p.complain(pv, "%s does not resolve; its sandboxes do not reach it until it does", at.Hosts[0])
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// lookUp asks for a name, once in a pass and in the time between two. While nobody answers, what was known stays.
func (p *pass) lookUp(ctx context.Context, host string) {
	if p.names[host] {
		return
	}
	p.names[host] = true
	for _, last := range p.memory.seen[host] {
		if p.now.Sub(last) < p.cfg.Every { // what we have written wakes us: a store that answers each time with others would keep us busy
			return
		}
	}
	within, cancel := context.WithTimeout(ctx, lookUpTime)
	defer cancel()
	found, err := p.cfg.Resolver.LookupNetIP(within, "ip", host)
	if err != nil || len(found) == 0 {
		p.cfg.Log.DebugContext(ctx, "a volume's server does not resolve", "host", host, "error", err)
		return
	}
	seen := p.memory.seen[host]
	if seen == nil {
		seen = map[netip.Addr]time.Time{}
		p.memory.seen[host] = seen
	}
	for a, last := range seen {
		if p.now.Sub(last) > p.cfg.Keep {
			delete(seen, a)
		}
	}
	for _, a := range found {
		seen[a.Unmap()] = p.now
	}
}

// rules let through what was gathered, and the cluster's name servers where there are names.
func (p *pass) rules() (out []networkingv1.NetworkPolicyEgressRule) {
	slices.SortFunc(p.places, func(a, b place) int {
		return cmp.Or(slices.CompareFunc(a.addresses, b.addresses, netip.Addr.Compare), slices.Compare(a.ports, b.ports))
	})
	p.places = slices.CompactFunc(p.places, func(a, b place) bool {
		return slices.Equal(a.addresses, b.addresses) && slices.Equal(a.ports, b.ports)
	})
	if len(p.names) > 0 {
		out = append(out, nameServers())
	}
	for _, at := range p.places {
		var rule networkingv1.NetworkPolicyEgressRule
		for _, a := range at.addresses {
			rule.To = append(rule.To, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: netip.PrefixFrom(a, a.BitLen()).String()}})
		}
		for _, port := range at.ports {
			rule.Ports = append(rule.Ports, on(corev1.ProtocolTCP, port))
		}
		out = append(out, rule)
	}
	return out
}

// nameServers are the cluster's, as the chart's own policy knows them.
func nameServers() networkingv1.NetworkPolicyEgressRule {
	const port = 53
	return networkingv1.NetworkPolicyEgressRule{
		To: []networkingv1.NetworkPolicyPeer{{
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: metav1.NamespaceSystem}},
			PodSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"k8s-app": "kube-dns"}},
		}},
		Ports: []networkingv1.NetworkPolicyPort{on(corev1.ProtocolUDP, port), on(corev1.ProtocolTCP, port)},
	}
}

func on(protocol corev1.Protocol, port uint16) networkingv1.NetworkPolicyPort {
	return networkingv1.NetworkPolicyPort{Protocol: ptr.To(protocol), Port: ptr.To(intstr.FromInt32(int32(port)))}
}
