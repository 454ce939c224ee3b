package container

import (
	"fmt"
	"path"
	"slices"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Spec is what differs between containers; every wall is the same for all.
type Spec struct {
	ID       string
	Hostname string
	// Root is a private directory that becomes "/".
	Root string
	// Layers are mounted inside as overlays.
	Layers    []Layer
	Args, Env []string
	Binds     []Bind
	Limits    Limits
	// Patient makes the container at a low priority, which Hurry lifts.
	Patient bool
}

// Layer is a directory inside that begins as Lower and keeps what is written in Upper. Upper and Work are private directories on
// one file system; Lower is not changed.
type Layer struct{ Target, Lower, Upper, Work string }

// Bind shows a host directory inside, read-only.
type Bind struct{ Source, Target string }

// Limits are a container's cgroup limits; zero means none.
type Limits struct {
	MilliCPU int64
	Memory   int64 // bytes
	PIDs     int64
}

// capabilities of root inside: what installing software and changing users takes, and nothing that reaches devices, raw
// sockets, mounts, other namespaces or the machine.
var capabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID",
}

// specification is the OCI form of s.
func (r *Runtime) specification(s Spec) (*specs.Spec, error) {
	spec := &specs.Spec{
		Version:  "1.0.2",
		Hostname: s.Hostname,
		Root:     &specs.Root{Path: s.Root},
		Process: &specs.Process{
			Args: s.Args, Env: s.Env, Cwd: "/",
			Capabilities: &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities},
			// sudo is part of what E2B's sandboxes promise; setuid programs gain no more than the bounding set.
			NoNewPrivileges: false,
		},
		Mounts: mounts(s),
		Linux: &specs.Linux{
			CgroupsPath: "/" + r.cfg.Group + "/" + s.ID,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.CgroupNamespace},
			},
			Resources:         resources(s.Limits),
			RootfsPropagation: "private",
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
				"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
			},
			ReadonlyPaths: append(parents(s.Binds), "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"),
		},
	}
	if r.rlimits {
		spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 65536, Hard: 1 << 20}, {Type: "RLIMIT_CORE"}}
	}
	profile, err := seccomp.GetDefaultProfile(spec)
	if err != nil {
		return nil, fmt.Errorf("container %s: seccomp profile: %w", s.ID, err)
	}
	if err := withoutAudit(profile); err != nil {
		return nil, fmt.Errorf("container %s: seccomp profile: %w", s.ID, err)
	}
	spec.Linux.Seccomp = profile
	return spec, nil
}

// parents are the directories that binds lie in. Were they not mounts of their own, root could rename them and put others in place.
func parents(binds []Bind) (out []string) {
	for _, b := range binds {
		if dir := path.Dir(b.Target); dir != "/" && !slices.Contains(out, dir) {
			out = append(out, dir)
		}
	}
	return out
}

func mounts(s Spec) []specs.Mount {
	out := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}
	// Mounted by runc in the container's own mount namespace: the host has no mount to leak.
	for _, l := range s.Layers {
		out = append(out, specs.Mount{Destination: l.Target, Type: "overlay", Source: "overlay",
			Options: []string{"nodev", "lowerdir=" + l.Lower, "upperdir=" + l.Upper, "workdir=" + l.Work}})
	}
	for _, b := range s.Binds {
		out = append(out, specs.Mount{Destination: b.Target, Type: "bind", Source: b.Source,
			Options: []string{"bind", "ro", "nosuid", "nodev"}})
	}
	return out
}

func resources(l Limits) *specs.LinuxResources {
	out := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	if l.MilliCPU > 0 {
		period := uint64(100_000)
		quota := max(1000, l.MilliCPU*100)
		shares := uint64(max(2, l.MilliCPU*1024/1000))
		out.CPU = &specs.LinuxCPU{Period: &period, Quota: &quota, Shares: &shares}
	}
	if l.Memory > 0 {
		memory := l.Memory
		out.Memory = &specs.LinuxMemory{Limit: &memory}
	}
	if l.PIDs > 0 {
		pids := l.PIDs
		out.Pids = &specs.LinuxPids{Limit: &pids}
	}
	return out
}
