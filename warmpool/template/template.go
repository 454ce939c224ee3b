// Package template reads a SandboxSet as the template that callers see. Pure over the API types; it knows no backend, and the counts of
// a pool are the backend's to add.
package template

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/injector"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// What a sandbox gets when its template says nothing.
const (
	defaultCPUs     = 1
	defaultMemoryMB = 512
	defaultOwner    = 1000 // user and group `user` of the sandbox
)

// Aliases are the set's further template names.
func Aliases(set *v1alpha1.SandboxSet) []string {
	var out []string
	for _, a := range strings.Split(set.Annotations[v1alpha1.AnnotationAliases], ",") {
		if a = strings.TrimSpace(a); a != "" {
			out = append(out, a)
		}
	}
	return out
}

// Of is a set as callers see it, without the counts that only its pool knows.
func Of(set *v1alpha1.SandboxSet) (warmpool.Template, error) {
	containers := set.Spec.Template.Spec.Containers
	if len(containers) == 0 {
		return warmpool.Template{}, fmt.Errorf("containers: want at least one")
	}
	resources, err := resourcesOf(containers[0].Resources)
	if err != nil {
		return warmpool.Template{}, err
	}
	owner, err := ownerOf(set.Spec.Template.Spec)
	if err != nil {
		return warmpool.Template{}, err
	}
	volumes, err := Volumes(set)
	if err != nil {
		return warmpool.Template{}, err
	}
	t := warmpool.Template{
		Name:      set.Name,
		Namespace: set.Namespace,
		Volumes:   volumes,
		Aliases:   Aliases(set),
		Resources: resources,
		Owner:     owner,
		Reserved:  reserved(containers),
		Desired:   int(set.Spec.Replicas),
	}
	for _, r := range set.Spec.Runtimes {
		t.Runtimes = append(t.Runtimes, r.Name)
	}
	t.Containers, err = containersOf(set)
	return t, err
}

func containersOf(set *v1alpha1.SandboxSet) (out []warmpool.Container, err error) {
	containers := set.Spec.Template.Spec.Containers
	takers, err := injector.Takers(set.Spec.Template.Annotations, containers)
	if err != nil {
		return nil, err
	}
	for _, c := range containers {
		out = append(out, warmpool.Container{
			Name: c.Name, Mounts: slices.Contains(takers, c.Name), Memory: c.Resources.Limits.Memory().Value(),
		})
	}
	return out, nil
}

// OfSandbox is the template that a Sandbox was made from, named after its pool.
func OfSandbox(sb *v1alpha1.Sandbox) (warmpool.Template, error) {
	set := &v1alpha1.SandboxSet{Spec: v1alpha1.SandboxSetSpec{Runtimes: sb.Spec.Runtimes, Volumes: sb.Spec.Volumes}}
	set.Name, set.Namespace = sb.Labels[v1alpha1.LabelPool], sb.Namespace
	if sb.Spec.Template != nil {
		set.Spec.Template = *sb.Spec.Template
	}
	return Of(set)
}

// resourcesOf rounds a container's limits, or its requests where it has none, up to what the API can say.
func resourcesOf(r corev1.ResourceRequirements) (warmpool.Resources, error) {
	out := warmpool.Resources{CPUCount: defaultCPUs, MemoryMB: defaultMemoryMB}
	cpu, hasCPU := limit(r, corev1.ResourceCPU)
	if hasCPU {
		out.CPUCount = int(math.Ceil(cpu))
	}
	memory, hasMemory := limit(r, corev1.ResourceMemory)
	if hasMemory {
		out.MemoryMB = int(math.Ceil(memory / (1 << 20)))
	}
	if disk, ok := limit(r, corev1.ResourceEphemeralStorage); ok {
		out.DiskMB = int(math.Ceil(disk / (1 << 20)))
	}
	// A quantity may be as large as 2^63; nobody means that, and the numbers above would overflow.
	const most = 1 << 30
	if cpu > most || memory/(1<<20) > most || out.DiskMB < 0 || out.DiskMB > most {
		return out, fmt.Errorf("containers[0].resources: larger than any machine")
	}
	return out, nil
}

func limit(r corev1.ResourceRequirements, name corev1.ResourceName) (float64, bool) {
	for _, list := range []corev1.ResourceList{r.Limits, r.Requests} {
		if q, ok := list[name]; ok && q.Sign() > 0 {
			return q.AsApproximateFloat64(), true
		}
	}
	return 0, false
}

// ownerOf is who owns what is mounted: runAsUser and fsGroup where the template has them.
func ownerOf(pod corev1.PodSpec) (mount.Owner, error) {
	owner := mount.Owner{UID: defaultOwner, GID: defaultOwner}
	var user, group *int64
	if c := pod.SecurityContext; c != nil {
		user, group = c.RunAsUser, c.FSGroup
		if group == nil {
			group = c.RunAsGroup
		}
	}
	if c := pod.Containers[0].SecurityContext; c != nil {
		if c.RunAsUser != nil {
			user = c.RunAsUser
		}
		if c.RunAsGroup != nil && (pod.SecurityContext == nil || pod.SecurityContext.FSGroup == nil) {
			group = c.RunAsGroup
		}
	}
	for _, x := range []struct {
		from *int64
		to   *uint32
		name string
	}{{user, &owner.UID, "runAsUser"}, {group, &owner.GID, "fsGroup or runAsGroup"}} {
		if x.from == nil {
			continue
		}
		if *x.from < 0 || *x.from > math.MaxInt32 { // Kubernetes' own bounds
			return owner, fmt.Errorf("securityContext: %s: want 0 to %d", x.name, math.MaxInt32)
		}
		*x.to = uint32(*x.from)
	}
	return owner, nil
}

// reserved are the paths that the template's own volumes take.
func reserved(containers []corev1.Container) []string {
	var out []string
	for _, c := range containers {
		for _, m := range c.VolumeMounts {
			out = append(out, path.Clean(m.MountPath))
		}
		for _, m := range c.VolumeDevices {
			out = append(out, path.Clean(m.DevicePath))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
