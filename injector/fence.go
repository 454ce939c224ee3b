package injector

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// breaches are capabilities with which a container leaves a fence in the pod's network namespace: the first removes it, the second sends
// what no rule sees, and marks sockets as the agent marks its own.
var breaches = []corev1.Capability{"NET_ADMIN", "NET_RAW"}

// fenced says whether what is injected may set rules in the pod's network namespace.
func (i *injection) fenced() bool {
	return i.injected(func(r runtime) bool {
		return slices.ContainsFunc(r.Sidecars, func(c corev1.Container) bool {
			return c.SecurityContext != nil && c.SecurityContext.Capabilities != nil &&
				slices.Contains(c.SecurityContext.Capabilities.Add, breaches[0])
		})
	})
}

// confine takes from a container of the template what would breach the fence: a container runtime gives NET_RAW to those that say
// nothing. One that asks for it is refused.
func (i *injection) confine(at string, c *corev1.Container) {
	if c.SecurityContext == nil {
		c.SecurityContext = &corev1.SecurityContext{}
	}
	if c.SecurityContext.Capabilities == nil {
		c.SecurityContext.Capabilities = &corev1.Capabilities{}
	}
	have := c.SecurityContext.Capabilities
	for _, b := range breaches {
		if slices.ContainsFunc(have.Add, func(a corev1.Capability) bool { return named(a) == b }) {
			i.faults.add(at+".securityContext.capabilities.add", "must not hold %s: it leaves the fence around NFS servers", b)
		}
	}
	if !slices.ContainsFunc(have.Drop, func(d corev1.Capability) bool { return named(d) == "ALL" || named(d) == breaches[1] }) {
		have.Drop = append(have.Drop, breaches[1])
	}
}

// named is a capability as Kubernetes spells it.
func named(c corev1.Capability) corev1.Capability {
	return corev1.Capability(strings.TrimPrefix(strings.ToUpper(string(c)), "CAP_"))
}
