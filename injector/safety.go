package injector

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// inside is the directory of the injected programs in a sandbox; nothing of a template may lie at, above or below it.
const inside = "/.sandgate"

// powers are capabilities with which a sandbox could leave its namespaces, or undo what was done to its mounts.
var powers = []corev1.Capability{
	"ALL", "SYS_ADMIN", "SYS_PTRACE", "SYS_MODULE", "SYS_RAWIO", "SYS_BOOT", "DAC_READ_SEARCH", "BPF", "PERFMON", "MAC_ADMIN", "MAC_OVERRIDE",
}

// nodePaths are host directories in which the node's own sockets, devices and other pods' volumes lie.
var nodePaths = []string{"/proc", "/sys", "/dev", "/run", "/var/run", "/var/lib/kubelet", "/var/lib/containerd", "/var/lib/docker", "/etc"}

// safe refuses what would break the walls, and sets the seccomp profile that Kubernetes does not set by itself.
func (i *injection) safe() {
	spec := &i.pod.Spec
	for field, set := range map[string]bool{
		"hostNetwork": spec.HostNetwork, "hostPID": spec.HostPID, "hostIPC": spec.HostIPC,
		"shareProcessNamespace": spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace,
	} {
		if set {
			i.faults.add("spec."+field, "must not be true: a sandbox sees only itself")
		}
	}
	if spec.SecurityContext == nil {
		spec.SecurityContext = &corev1.PodSecurityContext{}
	}
	if spec.SecurityContext.SeccompProfile == nil {
		spec.SecurityContext.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
	}
	i.seccomp("spec.securityContext.seccompProfile", spec.SecurityContext.SeccompProfile)
	for k, v := range spec.Volumes {
		i.volume(fmt.Sprintf("spec.volumes[%d]", k), v)
	}
	for k := range spec.InitContainers {
		i.container(fmt.Sprintf("spec.initContainers[%d]", k), &spec.InitContainers[k])
	}
	for k := range spec.Containers {
		i.container(fmt.Sprintf("spec.containers[%d]", k), &spec.Containers[k])
	}
}

func (i *injection) seccomp(at string, p *corev1.SeccompProfile) {
	if p != nil && p.Type == corev1.SeccompProfileTypeUnconfined {
		i.faults.add(at, "must not be Unconfined; leave it out for RuntimeDefault")
	}
}

func (i *injection) volume(at string, v corev1.Volume) {
	if v.HostPath == nil || i.injected(func(r runtime) bool { return contains(r.Volumes, v) }) {
		return
	}
	i.hostPath(at, v.HostPath.Path)
}

func (i *injection) hostPath(at, p string) {
	p = path.Clean("/" + p)
	if slices.ContainsFunc(nodePaths, func(n string) bool { return related(p, n) }) {
		i.faults.add(at+".hostPath.path", "must not be the node's own: %s", strings.Join(nodePaths, ", "))
	}
}

// container checks one of the template's containers; what the runtimes inject is the operator's.
func (i *injection) container(at string, c *corev1.Container) {
	if i.injected(func(r runtime) bool {
		return contains(r.InitContainers, *c) || contains(r.Containers, *c) || contains(sidecars(r), *c)
	}) {
		return
	}
	if i.fenced() {
		i.confine(at, c)
	}
	if s := c.SecurityContext; s != nil {
		if s.Privileged != nil && *s.Privileged {
			i.faults.add(at+".securityContext.privileged", "must not be true")
		}
		if s.ProcMount != nil && *s.ProcMount != corev1.DefaultProcMount {
			i.faults.add(at+".securityContext.procMount", "must be Default")
		}
		i.seccomp(at+".securityContext.seccompProfile", s.SeccompProfile)
		if s.Capabilities != nil {
			for _, have := range s.Capabilities.Add {
				if slices.Contains(powers, corev1.Capability(strings.TrimPrefix(strings.ToUpper(string(have)), "CAP_"))) {
					i.faults.add(at+".securityContext.capabilities.add", "must not hold %s", have)
				}
			}
		}
	}
	for k, m := range c.VolumeMounts {
		switch {
		case i.ours(c.Name, m):
		case i.injected(func(r runtime) bool {
			return slices.ContainsFunc(r.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		}):
			i.faults.add(fmt.Sprintf("%s.volumeMounts[%d]", at, k), "%q is a volume of the injected parts", m.Name)
		case related(path.Clean(m.MountPath), inside):
			i.faults.add(fmt.Sprintf("%s.volumeMounts[%d].mountPath", at, k), "must not cover %s", inside)
		}
		if m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationBidirectional {
			i.faults.add(fmt.Sprintf("%s.volumeMounts[%d].mountPropagation", at, k), "must not be Bidirectional")
		}
	}
}

// injected says whether it holds of one of the runtimes.
func (i *injection) injected(holds func(runtime) bool) bool {
	return slices.ContainsFunc(i.parts, holds)
}

func contains[T any](list []T, item T) bool {
	return slices.ContainsFunc(list, func(have T) bool { return equality.Semantic.DeepEqual(have, item) })
}

// related says whether one path is the other, or lies in it.
func related(a, b string) bool {
	return a == b || a == "/" || b == "/" || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}
