package volume

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// Plugins are the CSI drivers of others that an installation has, by the runtime whose agent runs the driver's node plugin.
type Plugins map[string]string

// Set implements flag.Value. What several flags say is put together.
func (p *Plugins) Set(text string) error {
	if *p == nil {
		*p = Plugins{}
	}
	for _, item := range split(text) {
		runtime, driver, _ := strings.Cut(item, "=")
		switch _, twice := (*p)[runtime]; {
		case driver == "" || !v1alpha1.MountsVolumes(runtime):
			return fmt.Errorf("%q: expected %s-NAME=DRIVER, the runtime that templates name and the CSI driver that it brings", item, v1alpha1.RuntimeCSI)
		case twice:
			return fmt.Errorf("%q: runtime %s is given twice; a sandbox has one agent, and that one driver of others", item, runtime)
		}
		(*p)[runtime] = driver
	}
	return nil
}

// String implements flag.Value.
func (p *Plugins) String() string {
	var out []string
	for _, runtime := range slices.Sorted(maps.Keys(*p)) {
		out = append(out, runtime+"="+(*p)[runtime])
	}
	return strings.Join(out, ",")
}

// Drivers are their names.
func (p Plugins) Drivers() []string {
	return slices.Compact(slices.Sorted(maps.Values(p)))
}

// elsewhere says why a driver is not in the sandboxes of a template, though it is installed; empty where it is.
func (p Plugins) elsewhere(driver string, t warmpool.Template) string {
	var bring []string
	for _, runtime := range slices.Sorted(maps.Keys(p)) {
		if p[runtime] == driver {
			bring = append(bring, fmt.Sprintf("%q", runtime))
		}
	}
	brought := slices.ContainsFunc(t.Runtimes, func(runtime string) bool { return p[runtime] == driver })
	if mount.BuiltIn(driver) || len(bring) == 0 || brought {
		return ""
	}
	return fmt.Sprintf("needs driver %q, which is not in the sandboxes of template %q: take one with runtime %s", driver, t.Name, strings.Join(bring, " or "))
}
