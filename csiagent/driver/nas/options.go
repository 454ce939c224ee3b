package nas

import (
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// option is one word of a mount's options.
type option struct{ name, value string }

var (
	flag     = regexp.MustCompile(`^$`)
	number   = regexp.MustCompile(`^[0-9]{1,9}$`)
	port     = regexp.MustCompile(`^[1-9][0-9]{0,4}$`)
	few      = regexp.MustCompile(`^([1-9]|1[0-6])$`)
	minor    = regexp.MustCompile(`^[012]$`)
	stream   = regexp.MustCompile(`^tcp6?$`)
	versions = regexp.MustCompile(`^(3(\.0)?|4(\.[012])?)$`)
	lookups  = regexp.MustCompile(`^(all|none|pos|positive)$`)
	locals   = regexp.MustCompile(`^(all|flock|posix|none)$`)
)

// allowed are the options that a volume may have, and the form of their values. What is not here could name another server or
// address, take credentials, wait for ever in the background, or widen what the mount allows.
var allowed = map[string]*regexp.Regexp{
	// of the mount
	"ro": flag, "rw": flag, "nosuid": flag, "nodev": flag, "noexec": flag, "noatime": flag, "nodiratime": flag, "relatime": flag,
	"nosymfollow": flag, "sync": flag, "dirsync": flag, "_netdev": flag, "nofail": flag,
	// of the protocol
	"vers": versions, "nfsvers": versions, "minorversion": minor, "tcp": flag, "proto": stream, "mountproto": stream,
	"mountvers": regexp.MustCompile(`^3$`), "port": port, "mountport": port, "nconnect": few, "resvport": flag, "noresvport": flag, "nolock": flag,
	// of the client
	"hard": flag, "soft": flag, "softerr": flag, "timeo": number, "retrans": number, "rsize": number, "wsize": number,
	"ac": flag, "noac": flag, "actimeo": number, "acregmin": number, "acregmax": number, "acdirmin": number, "acdirmax": number,
	"lookupcache": lookups, "local_lock": locals, "sharecache": flag, "nosharecache": flag, "cto": flag, "nocto": flag,
	"rdirplus": flag, "nordirplus": flag,
}

// why says of options that a volume may want, why it does not get them.
var why = map[string]string{
	"udp":  "NFS over UDP corrupts data; use proto=tcp",
	"lock": "locks of version 3 need rpc.statd, which does not run in a pod; use nolock, or vers=4.1",
}

// ours are options that are always as we set them: a volume may say them, and changes nothing.
var ours = map[string]bool{
	"rw": true, "nosuid": true, "nodev": true, "_netdev": true, "nofail": true, "tcp": true, "proto": true, "mountproto": true,
	"mountvers": true, "nolock": true, "vers": true, "nfsvers": true, "minorversion": true,
}

// attrs are the options that are flags of the mount and not of the file system.
var attrs = map[string]int{
	"noexec": unix.MOUNT_ATTR_NOEXEC, "noatime": unix.MOUNT_ATTR_NOATIME, "nodiratime": unix.MOUNT_ATTR_NODIRATIME,
	"nosymfollow": unix.MOUNT_ATTR_NOSYMFOLLOW, "relatime": 0,
}

// defaults are what a volume that has no options gets, as from the vendor's driver.
var defaults = map[bool][]option{ // by whether it is version 3
	true: {
		{"rsize", "1048576"}, {"wsize", "1048576"}, {"hard", ""}, {"timeo", "600"}, {"retrans", "2"}, {"noresvport", ""},
	},
	false: {{"noresvport", ""}},
}

// neutral are the options beside which a volume still counts as one that has none.
var neutral = map[string]bool{"vers": true, "minorversion": true, "ro": true, "rw": true, "nosuid": true, "nodev": true, "_netdev": true, "nofail": true}

// noDefaults is the value of the attribute options with which a volume wants nothing but what it says.
const noDefaults = "none"

// wanted is a set of options in the order in which they were first said.
type wanted struct {
	names  []string
	values map[string]string
}

// merge reads a list. Nobody may say two things in one list; what an earlier list has said is replaced.
func (w *wanted) merge(list []string) error {
	said := map[string]string{}
	for _, item := range list {
		o, err := oneOption(item)
		if err != nil {
			return err
		}
		if o.name == "nfsvers" {
			o.name = "vers"
		}
		if before, twice := said[o.name]; twice && before != o.value {
			return invalid("the mount option %q is given twice; keep one", o.name)
		}
		said[o.name] = o.value
		if w.values == nil {
			w.values = map[string]string{}
		}
		if _, have := w.values[o.name]; !have {
			w.names = append(w.names, o.name)
		}
		w.values[o.name] = o.value
	}
	return nil
}

func oneOption(item string) (option, error) {
	name, value, valued := strings.Cut(item, "=")
	form, ok := allowed[name]
	switch reason := why[name]; {
	case reason != "":
		return option{}, invalid("the mount option %q is not supported: %s", name, reason)
	case !ok:
		return option{}, invalid("the mount option %q is not among those that a volume may set; remove it", name)
	case form == flag && valued:
		return option{}, invalid("the mount option %q takes no value", name)
	case strings.HasSuffix(name, "proto") && strings.HasPrefix(value, "udp"):
		return option{}, invalid("the mount option %q is not supported with UDP, which corrupts data; use tcp", name)
	case form != flag && !form.MatchString(value):
		return option{}, invalid("the mount option %q has a value of the wrong form", name)
	}
	return option{name, value}, nil
}

// allOptions gathers the attribute options, the attribute vers and the PersistentVolume's mountOptions: the later wins.
func (v *volume) allOptions(attribute, vers string, mountOptions []string) error {
	var w wanted
	if attribute != "" && attribute != noDefaults {
		if err := w.merge(strings.Split(attribute, ",")); err != nil {
			return err
		}
	}
	if vers != "" {
		if !versions.MatchString(vers) {
			return invalid("the attribute vers must be 3, 4.0, 4.1 or 4.2")
		}
		if err := w.merge([]string{"vers=" + vers}); err != nil {
			return err
		}
	}
	if err := w.merge(mountOptions); err != nil {
		return err
	}
	if err := v.negotiate(w.values); err != nil {
		return err
	}
	bare := attribute != noDefaults
	for _, name := range w.names {
		attr, ofMount := attrs[name]
		bare = bare && (ofMount || neutral[name])
		switch {
		case name == "ro":
			v.readOnly = true
		case ofMount:
			v.attrs |= attr
		case !ours[name]:
			v.options = append(v.options, option{name, w.values[name]})
		}
	}
	if bare {
		v.options = defaults[v.version == "3"]
	}
	return nil
}

// negotiate settles the version and the ports.
func (v *volume) negotiate(o map[string]string) error {
	sub, asked := o["minorversion"]
	switch v.version = o["vers"]; v.version {
	case "", "3.0":
		v.version = "3"
	case "4":
		v.version = "4.0"
		if asked {
			v.version = "4." + sub
		}
	}
	if asked && v.version != "4."+sub {
		return invalid("the mount option minorversion contradicts vers; say vers=4.1 and nothing else")
	}
	for _, p := range []struct {
		name string
		to   *uint16
		none uint16
	}{{"port", &v.port, defaultPort}, {"mountport", &v.mountd, 0}} {
		*p.to = p.none
		if text, set := o[p.name]; set {
			n, err := strconv.ParseUint(text, 10, 16)
			if err != nil {
				return invalid("the mount option %q must be a port", p.name)
			}
			*p.to = uint16(n)
		}
	}
	if v.mountd != 0 && v.version != "3" {
		return invalid("the mount option %q is of version 3 only", "mountport")
	}
	return nil
}
