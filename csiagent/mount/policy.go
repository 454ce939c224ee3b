package mount

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Policy holds the rules for the mounts of one request that need no principal.
type Policy struct {
	// MaxMounts is how many mounts a sandbox may have.
	MaxMounts int
	// Drivers are the drivers that can be used.
	Drivers []string
	// Reserved are targets refused beside those that Parse refuses always, with everything below and above them: the paths
	// that the sandbox's template mounts, and other programs' directories.
	Reserved []string
	// Options are the mount options allowed by driver, beside the flags that every file system has. A trailing = says that the
	// option takes a value; * is any option of the grammar.
	Options map[string][]string
}

const (
	// DefaultMaxMounts is how many mounts a sandbox may have when nobody says otherwise.
	DefaultMaxMounts = 16
	// MostMounts is the highest limit that Kubernetes lets anybody set: a Sandbox's spec.mounts holds no more.
	MostMounts = 64
)

// flags are the mount options that every driver may be given; none of them widens what a mount may do.
var flags = []string{
	"ro", "rw", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime", "sync", "dirsync", "nosymfollow", "_netdev", "nofail",
}

// DefaultPolicy knows the built-in drivers and the options that make sense with them.
func DefaultPolicy() Policy {
	return Policy{
		MaxMounts: DefaultMaxMounts,
		Drivers:   []string{DriverOSS, DriverNAS, DriverTmpfs, DriverHostPath, DriverPool, DriverEphemeral},
		Options: map[string][]string{
			DriverOSS: {"allow_other", "umask=", "mp_umask=", "uid=", "gid="},
			DriverNAS: {
				"lock", "nolock", "tcp", "udp", "proto=", "resvport", "noresvport", "vers=", "nfsvers=", "minorversion=",
				"rsize=", "wsize=", "hard", "soft", "softerr", "timeo=", "retrans=", "port=", "mountport=", "mountproto=", "mountvers=",
				"nconnect=", "ac", "noac", "actimeo=", "acregmin=", "acregmax=", "acdirmin=", "acdirmax=", "lookupcache=",
				"local_lock=", "sharecache", "nosharecache", "cto", "nocto", "rdirplus", "nordirplus",
			},
		},
	}
}

const anyOption = "*"

// With is p with drivers that are not built in. Their options are between the volume's owner and them.
func (p Policy) With(drivers ...string) Policy {
	p.Drivers, p.Options = slices.Clone(p.Drivers), maps.Clone(p.Options)
	if p.Options == nil {
		p.Options = map[string][]string{}
	}
	for _, d := range drivers {
		if !slices.Contains(p.Drivers, d) {
			p.Drivers = append(p.Drivers, d)
			p.Options[d] = []string{anyOption}
		}
	}
	return p
}

// Admit returns nil when all of ms may be mounted together, else Faults that name every reason with the mount's index.
func (p Policy) Admit(ms []Mount) error {
	var faults Faults
	for i, m := range ms {
		faults = append(faults, p.mountFaults(m).At(i)...)
		for _, b := range ms[:i] {
			faults = append(faults, clashes(b.Spec, m.Spec).At(i)...)
		}
	}
	if len(ms) > p.MaxMounts {
		reason := fmt.Sprintf("a sandbox may have at most %d mounts; %d are asked for", p.MaxMounts, len(ms))
		faults = append(faults, Fault{Index: p.MaxMounts, Field: FieldVolume, Reason: reason})
	}
	return faults.Err()
}

// Beside returns nil when s may be mounted beside those that are there already, else Faults with index 0. It is the part of Admit that
// is about more than one mount.
func (p Policy) Beside(there []Spec, s Spec) error {
	faults := Clashes(there, s)
	if len(there) >= p.MaxMounts {
		reason := fmt.Sprintf("a sandbox may have at most %d mounts and this one has %d; unmount one first", p.MaxMounts, len(there))
		faults = append(faults, Fault{Field: FieldVolume, Reason: reason})
	}
	return faults.Err()
}

// Clashes are the mounts of there that leave no room for s: equal or nested targets, equal IDs. Their index is 0.
func Clashes(there []Spec, s Spec) (out Faults) {
	for _, b := range there {
		out = append(out, clashes(b, s)...)
	}
	return out
}

// mountFaults are the things wrong with m on its own, with index 0.
func (p Policy) mountFaults(m Mount) (out Faults) {
	if reason := reservedReason(m.Target, p.Reserved); reason != "" {
		out = append(out, Fault{Field: FieldTarget, Reason: reason})
	}
	if !slices.Contains(p.Drivers, m.Driver) {
		reason := fmt.Sprintf("its driver %q is not known here; known are %s", m.Driver, strings.Join(p.Drivers, ", "))
		return append(out, Fault{Field: FieldVolume, Reason: reason})
	}
	for _, o := range m.Options {
		if reason := p.optionReason(m.Driver, o); reason != "" {
			out = append(out, Fault{Field: FieldVolume, Reason: reason})
		}
	}
	return out
}

// clashes are the reasons why m cannot be mounted beside b, with index 0.
func clashes(b, m Spec) (out Faults) {
	if b.ID == m.ID {
		reason := fmt.Sprintf("%q is the ID of the mount at %s too; IDs must differ", m.ID, b.Target)
		out = append(out, Fault{Field: FieldID, Reason: reason})
	}
	if b.Volume == m.Volume && b.IsEphemeral() && m.IsEphemeral() && b.Ephemeral != m.Ephemeral {
		reason := fmt.Sprintf("volume %q has another size or number of inodes at %s; it is one volume", m.Volume, b.Target)
		out = append(out, Fault{Field: FieldSize, Reason: reason})
	}
	if b.Container != m.Container {
		return out
	}
	reason := ""
	switch {
	case b.Target == m.Target:
		reason = "is the target of another mount too; targets must differ"
	case inside(m.Target, b.Target):
		reason = fmt.Sprintf("lies inside %s, the target of another mount; targets must not be nested", b.Target)
	case inside(b.Target, m.Target):
		reason = fmt.Sprintf("contains %s, the target of another mount; targets must not be nested", b.Target)
	}
	if reason != "" {
		out = append(out, Fault{Field: FieldTarget, Reason: reason})
	}
	return out
}

// option is the grammar of one mount option: nothing in it can end the option or start another one.
var option = regexp.MustCompile(`^[a-z_][a-z0-9_]*(=[A-Za-z0-9._:/@%+-]+)?$`)

const maxOptionName, maxOptionValue = 64, 255

// optionReason never quotes an option's value: that is between the operator and the storage, and may be a password.
func (p Policy) optionReason(driver, o string) string {
	name, value, valued := strings.Cut(o, "=")
	if !option.MatchString(o) || len(name) > maxOptionName || len(value) > maxOptionValue {
		return fmt.Sprintf("its mount option %q is not of the form name or name=value", name)
	}
	allowed := name
	if valued {
		allowed += "="
	}
	if !slices.Contains(flags, allowed) && !slices.Contains(p.Options[driver], allowed) && !slices.Contains(p.Options[driver], anyOption) {
		return fmt.Sprintf("its mount option %q is not allowed with driver %s", allowed, driver)
	}
	return ""
}
