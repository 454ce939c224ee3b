package local

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/local/container"
	"github.com/sandgate-dev/sandgate/warmpool/local/rootfs"
	"github.com/sandgate-dev/sandgate/warmpool/template"
)

// Network is what a pool's sandboxes can reach.
type Network string

// The networks of AnnotationNetwork.
const (
	NetworkNone  Network = "none"
	NetworkPasta Network = "pasta"
)

// defaultPIDs bounds the processes of a sandbox whose template says nothing; a fork bomb must stay inside.
const defaultPIDs = 1024

// plan is a SandboxSet as this backend understands it. A plain value.
type plan struct {
	name      string
	aliases   []string
	runtimes  []string
	replicas  int
	network   Network
	limits    container.Limits
	resources warmpool.Resources
	owner     mount.Owner
	names     []string // of the containers
	reserved  []string
	env       map[string]string
	image     string
	namespace string
	volumes   []v1alpha1.PoolVolume
	revision  string // changes when sandboxes made before are not what the set asks for now
	created   time.Time
	patient   bool // nobody waits for it
}

// machineSize is what a template without limits has.
type machineSize struct{ cpus, memoryMB int }

// planOf reads a set, whose sandboxes may have as many mounts as most says. made is a digest of everything else that a sandbox is made of:
// programs and root file system.
func planOf(set v1alpha1.SandboxSet, size machineSize, most int, made string) (plan, error) {
	containers := set.Spec.Template.Spec.Containers
	if len(containers) == 0 {
		return plan{}, fmt.Errorf("SandboxSet %s: spec.template.spec.containers is empty; its first container is the sandbox", set.Name)
	}
	network := Network(set.Annotations[v1alpha1.AnnotationNetwork])
	switch network {
	case "":
		network = NetworkNone
	case NetworkNone, NetworkPasta:
	default:
		return plan{}, fmt.Errorf("SandboxSet %s: annotation %s is %q; expected none or pasta", set.Name, v1alpha1.AnnotationNetwork, network)
	}
	volumes, err := template.Volumes(&set)
	if err == nil {
		err = template.Fit(volumes, most)
	}
	if err != nil {
		return plan{}, fmt.Errorf("SandboxSet %s: spec.%w", set.Name, err)
	}
	first := containers[0]
	p := plan{
		name: set.Name, aliases: commas(set.Annotations[v1alpha1.AnnotationAliases]), replicas: max(0, int(set.Spec.Replicas)),
		network: network, limits: limitsOf(first), owner: ownerOf(set.Spec.Template.Spec, first),
		reserved: []string{"/.sandgate"}, env: map[string]string{}, image: first.Image, created: set.CreationTimestamp.Time,
		namespace: set.Namespace, volumes: set.Spec.Volumes,
	}
	for _, r := range set.Spec.Runtimes {
		p.runtimes = append(p.runtimes, r.Name)
	}
	for _, c := range containers {
		p.names = append(p.names, c.Name)
	}
	for _, m := range first.VolumeMounts {
		p.reserved = append(p.reserved, path.Clean(m.MountPath))
	}
	for _, e := range first.Env {
		if e.ValueFrom == nil {
			p.env[e.Name] = e.Value
		}
	}
	p.resources = resourcesOf(p.limits, size)
	p.revision = revisionOf(set, network, made)
	return p, nil
}

func limitsOf(c corev1.Container) container.Limits {
	l := container.Limits{PIDs: defaultPIDs}
	if cpu, ok := c.Resources.Limits[corev1.ResourceCPU]; ok {
		l.MilliCPU = cpu.MilliValue()
	}
	if memory, ok := c.Resources.Limits[corev1.ResourceMemory]; ok {
		l.Memory = memory.Value()
	}
	return l
}

func resourcesOf(l container.Limits, size machineSize) warmpool.Resources {
	r := warmpool.Resources{CPUCount: size.cpus, MemoryMB: size.memoryMB}
	if l.MilliCPU > 0 {
		r.CPUCount = int(max(1, (l.MilliCPU+999)/1000))
	}
	if l.Memory > 0 {
		r.MemoryMB = int(l.Memory >> 20)
	}
	return r
}

// ownerOf says who owns what is mounted: the pod's or the container's user, else the account user.
func ownerOf(pod corev1.PodSpec, c corev1.Container) mount.Owner {
	o := mount.Owner{UID: rootfs.UserID, GID: rootfs.UserID}
	if s := pod.SecurityContext; s != nil {
		set(&o.UID, s.RunAsUser)
		set(&o.GID, s.RunAsGroup)
		set(&o.GID, s.FSGroup)
	}
	if s := c.SecurityContext; s != nil {
		set(&o.UID, s.RunAsUser)
	}
	return o
}

func set(to *uint32, from *int64) {
	if from != nil && *from >= 0 && *from < 1<<32 {
		*to = uint32(*from)
	}
}

func revisionOf(set v1alpha1.SandboxSet, network Network, made string) string {
	// Replicas, aliases and the runtimes' names change nothing about a sandbox that exists.
	text, err := json.Marshal(struct {
		Template corev1.PodTemplateSpec
		Network  Network
		Made     string
		Volumes  []v1alpha1.PoolVolume `json:",omitempty"`
	}{set.Spec.Template, network, made, set.Spec.Volumes})
	if err != nil {
		text = []byte(err.Error())
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])[:16]
}

func commas(s string) []string {
	var out []string
	for _, part := range strings.Split(s, ",") {
		if part = strings.TrimSpace(part); part != "" && !slices.Contains(out, part) {
			out = append(out, part)
		}
	}
	return out
}
