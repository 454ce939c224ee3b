package nas

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// volume is what a Mount asks for, checked.
type volume struct {
	server   string // a host or an address
	path     string // absolute and clean: what the server exports, or a directory in that
	sub      string // relative and clean, beneath path; "" for none
	version  string // 3, 4.0, 4.1 or 4.2
	mode     uint32 // of directories that are made, and of the volume's own when setMode
	setMode  bool
	readOnly bool
	owner    mount.Owner
	options  []option // the file system's
	attrs    int      // of the mount
	port     uint16
	mountd   uint16 // 0 asks the portmapper
}

const (
	defaultPort = 2049
	defaultMode = 0o755
)

var modeText = regexp.MustCompile(`^0?[0-3]?[0-7]{3}$`)

const maxComponents = 64

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{mount.ErrInvalid}, args...)...)
}

func parse(m mount.Mount) (volume, error) {
	v := volume{owner: m.Owner, readOnly: m.ReadOnly || m.AccessMode == mount.ReadOnlyMany, mode: defaultMode}
	a, err := attributes(m.Attributes)
	if err != nil {
		return v, err
	}
	if len(m.Secret) > 0 {
		return v, invalid("an NFS volume takes no Secret here; drop nodePublishSecretRef")
	}
	if v.server, err = host(a["server"]); err != nil {
		return v, err
	}
	if v.path, err = exported(a["path"]); err != nil {
		return v, err
	}
	if v.sub, err = components("sub path", m.SubPath); err != nil {
		return v, err
	}
	if err := v.modes(a["mode"], a["modetype"]); err != nil {
		return v, err
	}
	return v, v.allOptions(a["options"], a["vers"], m.Options)
}

// known are the attributes by their name in small letters, with the values that they may have; nil is looked at elsewhere.
var known = map[string][]string{
	"server": nil, "path": nil, "vers": nil, "mode": nil, "modetype": nil, "options": nil,
	"mountprotocol": {"nfs"}, "mounttype": {"nfs"}, "filesystemtype": {"standard"},
}

// refused are attributes that the vendor's driver knows, and why they are not honoured here.
var refused = map[string]string{
	"accesspoint": "access points need the vendor's client with TLS",
	"useclient":   "only the kernel's NFS client is used",
	"authtype":    "the server must know the pod by its address",
	"sandboxid":   "the server must know the pod by its address",
	"sysconfig":   "a volume does not change the kernel's settings",
	"looplock":    "images in volumes are not mounted", "loopimagesize": "images in volumes are not mounted",
}

func attributes(in map[string]string) (map[string]string, error) {
	out := make(map[string]string, len(in))
	for _, k := range slices.Sorted(maps.Keys(in)) {
		name, value := strings.ToLower(strings.TrimSpace(k)), strings.TrimSpace(in[k])
		if strings.HasPrefix(name, "csi.storage.k8s.io/") {
			continue // the pod's names, for drivers that want them
		}
		values, ok := known[name]
		_, twice := out[name]
		switch why := refused[name]; {
		case why != "":
			return nil, invalid("the attribute %q is not supported: %s; remove it", k, why)
		case !ok:
			return nil, invalid("an NFS volume has no attribute %q that is supported here; remove it", k)
		case twice:
			return nil, invalid("the attribute %q is given twice in different letters; keep one", k)
		case values != nil && value != "" && !slices.Contains(values, value):
			return nil, invalid("the attribute %q must be %s; others are not supported", k, strings.Join(values, " or "))
		}
		out[name] = value
	}
	return out, nil
}

func host(text string) (string, error) {
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil && a.Zone() == "" {
		return a.String(), nil
	}
	if !mount.ValidHost(text) {
		return "", invalid("the attribute server must be one host name or address, without port and path")
	}
	return text, nil
}

// exported is the path that is mounted; "/" when none is given.
func exported(text string) (string, error) {
	if text != "" && text[0] != '/' {
		return "", invalid("the attribute path must start with /")
	}
	rel, err := components("attribute path", strings.Trim(text, "/"))
	return "/" + rel, err
}

func components(what, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	parts := strings.Split(text, "/")
	if len(parts) > maxComponents {
		return "", invalid("the %s may have at most %d components", what, maxComponents)
	}
	for _, p := range parts {
		if p == "" || p == "." || p == ".." {
			return "", invalid("the %s must have no empty, . or .. component", what)
		}
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == ':' }) {
		return "", invalid("the %s must have no colon and no control character", what)
	}
	return text, nil
}

func (v *volume) modes(text, kind string) error {
	switch {
	case kind != "" && kind != "non-recursive":
		return invalid("the attribute modeType must be non-recursive: nobody changes the mode of a whole tree here")
	case text == "":
		return nil
	case !modeText.MatchString(text):
		return invalid("the attribute mode must be octal, such as 0755, without the set-user-ID bit")
	}
	n, err := strconv.ParseUint(text, 8, 12)
	v.mode, v.setMode = uint32(n), true
	return err
}

// ports are those at which the volume's server is spoken to; a server whose mountd is asked for is known by the usual ones.
func (v *volume) ports() []uint16 {
	out := []uint16{v.port}
	if v.mountd != 0 {
		out = append(out, v.mountd)
	}
	return out
}

// source is the export as the kernel wants it named.
func source(server, path string) string {
	if strings.Contains(server, ":") {
		server = "[" + server + "]"
	}
	return server + ":" + path
}

// task is v for the process that mounts it. The server is an address by now: what was looked at is what is mounted.
func (v *volume) task(server, client netip.Addr) task {
	t := task{
		Server: server.String(), Path: v.path, Sub: v.sub, Mode: v.mode, SetMode: v.setMode, ReadOnly: v.readOnly, UID: v.owner.UID, GID: v.owner.GID, Attrs: v.attrs,
	}
	family := "tcp"
	if server.Is6() {
		family = "tcp6"
	}
	set := func(name, value string) { t.Options = append(t.Options, [2]string{name, value}) }
	set("vers", v.version)
	set("addr", server.String())
	set("proto", family)
	if v.version == "3" {
		set("mountproto", family)
		set("nolock", "")
	} else {
		set("clientaddr", client.String())
	}
	for _, o := range v.options {
		set(o.name, o.value)
	}
	if v.readOnly {
		set("ro", "")
	}
	return t
}
