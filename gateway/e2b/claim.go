package e2b

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/tidwall/gjson"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// order is a create request: the claim, and where the caller wrote each of its mounts.
type order struct {
	claim  warmpool.Claim
	places []places // of claim.Mounts, by index
	from   string   // which fields the metadata's mounts were taken from
	unused string   // which were not
}

// claim turns a create request into a claim. All that is wrong with it goes to fs; the claim then holds what is sound.
func (s *server) claim(c echo.Context, otherwise time.Duration, fs *faults) (order, error) {
	o, err := body(c, fs)
	if err != nil {
		return order{}, err
	}
	key, err := idempotencyKey(c)
	if err != nil {
		return order{}, err
	}
	o.only(true, "templateID", "timeout", "autoPause", "autoPauseMemory", "autoResume", "secure", "allow_internet_access",
		"network", "metadata", "envVars", "mcp", "iam", "volumeMounts")
	a := order{claim: warmpool.Claim{
		Template: s.wantedTemplate(o), Principal: principal(c), Timeout: s.lifetime(o, "timeout", otherwise),
		Metadata: o.texts("metadata"), Env: environment(o), AllowInternet: internet(o),
		IdempotencyKey: key,
	}}
	o.unsupported()
	o.truth("secure") // nothing is ever unsecured
	o.truth("autoPauseMemory")
	wanted, from, unused := metadataMounts(a.claim.Metadata, s.service.MaxMounts(), fs)
	a.from, a.unused = from, unused
	wanted = append(wanted, ephemeralMounts(a.claim.Metadata, s.service.MaxMounts(), fs)...)
	wanted = append(wanted, bodyMounts(o, s.service.MaxMounts())...)
	a.claim.Mounts, a.places = sound(wanted, fs)
	return a, nil
}

// idempotencyKey is the request's own name, empty when it has none.
func idempotencyKey(c echo.Context) (string, error) {
	switch keys := c.Request().Header.Values("Idempotency-Key"); {
	case len(keys) == 0:
		return "", nil
	case len(keys) > 1 || keys[0] == "":
		return "", warmpool.Errorf(warmpool.Invalid, "Idempotency-Key must be one value that is not empty")
	default:
		return keys[0], nil
	}
}

// maxTemplate bounds a template's name with all that E2B allows around it.
const maxTemplate = 512

func (s *server) wantedTemplate(o object) string {
	name, ok := o.text("templateID")
	switch _, given := o.fields["templateID"]; {
	case !given, ok && name == "":
		o.faults.add("templateID", "is required: give the name of a template")
	case len(name) > maxTemplate:
		o.faults.add("templateID", "is longer than %d bytes", maxTemplate)
		return ""
	}
	return templateName(name)
}

// unsupported makes faults of features whose silent absence would weaken or change what the caller counts on.
func (o object) unsupported() {
	if on, _ := o.truth("autoPause"); on {
		o.faults.add("autoPause", "pausing is not supported here, so a sandbox cannot be paused at its timeout; leave it out or send false")
	}
	if v, ok := o.fields["autoResume"]; ok {
		if inner, ok := readObject(o.at("autoResume"), v, o.faults); ok {
			inner.only(true, "enabled")
			if on, _ := inner.truth("enabled"); on {
				o.faults.add("autoResume.enabled", "pausing is not supported here, so nothing could be resumed; leave it out or send false")
			}
		}
	}
	if _, ok := o.fields["mcp"]; ok { // even an empty one asks for the server
		o.faults.add("mcp", "MCP servers are not supported here; leave it out")
	}
	if v, ok := o.fields["iam"]; ok && !empty(v) {
		o.faults.add("iam", "identity tokens are not supported here; leave it out")
	}
}

// maxVariable is how long "name=value" may be: the kernel starts no program with a longer one (MAX_ARG_STRLEN, with its NUL).
const maxVariable = 128<<10 - 1

// environment reads envVars, which must be able to be an environment.
func environment(o object) map[string]string {
	env := o.texts("envVars")
	for _, name := range slices.Sorted(maps.Keys(env)) {
		place := object{place: "envVars"}.at(name)
		switch {
		case name == "" || strings.ContainsAny(name, "=\x00"):
			o.faults.add(place, "is not a name that an environment variable can have")
		case strings.Contains(env[name], "\x00"):
			o.faults.add(place, "must not contain a NUL character")
		case len(name)+len("=")+len(env[name]) > maxVariable:
			o.faults.add(place, "is longer than %d bytes, with which no program can be started", maxVariable)
		}
	}
	return env
}

// everywhere are the networks that denyOut names to take the internet away as a whole.
var everywhere = []string{"0.0.0.0/0", "::/0"}

// fineRules are the fields of network that cannot be kept here.
var fineRules = []string{"allowOut", "rules", "egressProxy", "maskRequestHost", "httpsPorts", "dnsServers"}

// internet reads allow_internet_access and the parts of network that mean the same. Finer rules cannot be kept here, and a
// rule that is not kept must not look as if it were.
func internet(o object) *bool {
	var allow *bool
	if v, ok := o.truth("allow_internet_access"); ok {
		allow = &v
	}
	v, ok := o.fields["network"]
	if !ok {
		return allow
	}
	network, ok := readObject("network", v, o.faults)
	if !ok {
		return allow
	}
	network.only(true, slices.Concat([]string{"denyOut", "allowPublicTraffic"}, fineRules)...)
	for _, name := range fineRules {
		if v, ok := network.fields[name]; ok && !empty(v) {
			o.faults.add(network.at(name), "network rules finer than all or nothing are not supported here; leave it out")
		}
	}
	if open, ok := network.truth("allowPublicTraffic"); ok && !open {
		o.faults.add("network.allowPublicTraffic", "closing a sandbox's ports to callers without a token is not supported here; leave it out")
	}
	denied := network.elements("denyOut", maxPage)
	all := len(denied) > 0
	for _, d := range denied {
		if !slices.Contains(everywhere, d.String()) {
			o.faults.add("network.denyOut", "only \"0.0.0.0/0\" (no internet at all) is supported here")
			return allow
		}
	}
	if all && !slices.ContainsFunc(denied, func(d gjson.Result) bool { return d.String() == everywhere[0] }) {
		o.faults.add("network.denyOut", "denying only IPv6 is not supported here; add \"0.0.0.0/0\"")
	}
	if all {
		no := false
		allow = &no
	}
	return allow
}

// places says where the caller wrote the fields of a mount.
type places struct {
	whole  string // for faults of fields that the caller cannot write there
	fields map[mount.Field]string
}

func (p places) of(f mount.Field) string {
	if place, ok := p.fields[f]; ok {
		return place
	}
	return p.whole
}

// wish is a mount as the caller wrote it, and which of its fields are known to be faulty.
type wish struct {
	spec   mount.Spec
	places places
	faulty map[mount.Field]bool
}

// sound parses the wishes. Faulty ones stay, without their volume, as long as their target can be checked further.
func sound(wishes []wish, fs *faults) ([]mount.Spec, []places) {
	var (
		specs []mount.Spec
		where []places
	)
	for _, w := range wishes {
		parsed, err := mount.Parse(w.spec)
		for _, f := range asFaults(err) {
			if !w.faulty[f.Field] {
				fs.add(w.places.of(f.Field), "%s", f.Reason)
			}
			w.faulty[f.Field] = true
		}
		if len(w.faulty) > 0 {
			parsed, err = mount.Parse(mount.Spec{Volume: "unknown", Target: w.spec.Target})
			parsed.Volume, parsed.ID = "", w.places.whole
		}
		if err == nil {
			specs, where = append(specs, parsed), append(where, w.places)
		}
	}
	return specs, where
}
