// Package injector fits out the pod of a sandbox: what the runtimes in a ConfigMap say is merged into it. It is pure and speaks
// corev1 only; it knows neither a cluster nor what the injected programs do.
package injector

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// Names of runtimes whose order is fixed.
const (
	runtimeAgent = "agent-runtime"
	runtimeCSI   = "csi"
)

// Config is a parsed injection ConfigMap: what each runtime injects. A plain value; nobody modifies it.
type Config struct {
	runtimes map[string]runtime
}

// runtime is the value of one key. The JSON names are the contract's, aliases folded in.
type runtime struct {
	// MainContainer is merged into the pod's first container: env, volumeMounts and lifecycle.postStart.
	MainContainer  *corev1.Container  `json:"mainContainer,omitempty"`
	Sidecars       []corev1.Container `json:"csiSidecar,omitempty"`
	Volumes        []corev1.Volume    `json:"volume,omitempty"`
	InitContainers []corev1.Container `json:"initContainers,omitempty"`
	Containers     []corev1.Container `json:"containers,omitempty"`
	// PullSecrets are those of the injected images, which the template's author need not know of.
	PullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`
	Annotations map[string]string             `json:"annotations,omitempty"`
	Labels      map[string]string             `json:"labels,omitempty"`
}

// aliases are honest names of keys.
var aliases = map[string]string{"sidecars": "csiSidecar", "volumes": "volume"}

var known = []string{"mainContainer", "csiSidecar", "volume", "initContainers", "containers", "imagePullSecrets", "annotations", "labels"}

// Faults are all the things wrong with a configuration or a template, each with its path. It is an error when it is not empty.
type Faults []string

func (f Faults) Error() string { return strings.Join(f, "; ") }

func (f *Faults) add(path, format string, args ...any) {
	*f = append(*f, path+": "+fmt.Sprintf(format, args...))
}

// err is f as an error, nil when there are none. Sorted, since a condition that bears it must not change by itself.
func (f Faults) err() error {
	if len(f) == 0 {
		return nil
	}
	slices.Sort(f)
	return f
}

// Parse reads a ConfigMap's data: a key is a runtime's name, its value one document in JSON or YAML. The error is Faults with
// everything that is wrong.
func Parse(data map[string]string) (Config, error) {
	var faults Faults
	c := Config{runtimes: map[string]runtime{}}
	for _, name := range slices.Sorted(maps.Keys(data)) {
		r := parse(name, data[name], &faults)
		check(name, r, &faults)
		c.runtimes[name] = r
	}
	if err := faults.err(); err != nil {
		return Config{}, err
	}
	return c, nil
}

func parse(name, text string, faults *Faults) (r runtime) {
	raw, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		faults.add(name, "is neither JSON nor YAML: %v", err)
		return r
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
		faults.add(name, "want a mapping with any of %s", strings.Join(known, ", "))
		return r
	}
	folded := map[string]json.RawMessage{}
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		as := key
		if a, ok := aliases[key]; ok {
			as = a
		}
		switch _, twice := folded[as]; {
		case !slices.Contains(known, as):
			faults.add(name+"."+key, "unknown key; known are %s", strings.Join(known, ", "))
		case twice:
			faults.add(name+"."+key, "is another name of %s, which is given too", as)
		default:
			folded[as] = fields[key]
		}
	}
	decode(name, folded, &r, faults)
	return r
}

// decode reads each key on its own, so that one fault does not hide the others.
func decode(name string, fields map[string]json.RawMessage, r *runtime, faults *Faults) {
	for key, into := range map[string]any{
		"mainContainer": &r.MainContainer, "csiSidecar": &r.Sidecars, "volume": &r.Volumes, "initContainers": &r.InitContainers,
		"containers": &r.Containers, "imagePullSecrets": &r.PullSecrets, "annotations": &r.Annotations, "labels": &r.Labels,
	} {
		raw, given := fields[key]
		if !given {
			continue
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err := d.Decode(into); err != nil {
			faults.add(name+"."+key, "%v", err)
		}
	}
}

// check refuses what could not be merged into any pod.
func check(name string, r runtime, faults *Faults) {
	if m := r.MainContainer; m != nil {
		rest := m.DeepCopy()
		rest.Name, rest.Env, rest.VolumeMounts, rest.Lifecycle = "", nil, nil, nil
		if raw, _ := json.Marshal(rest); string(raw) != `{"name":"","resources":{}}` {
			faults.add(name+".mainContainer", "only env, volumeMounts and lifecycle.postStart are merged; take the rest out")
		}
		if l := m.Lifecycle; l != nil && (l.PreStop != nil || l.StopSignal != nil || l.PostStart == nil || l.PostStart.Exec == nil || len(l.PostStart.Exec.Command) == 0) {
			faults.add(name+".mainContainer.lifecycle", "want postStart.exec.command and nothing else")
		}
	}
	seen := map[string]bool{}
	for _, group := range r.groups() {
		for i, c := range group.list {
			at := fmt.Sprintf("%s.%s[%d]", name, group.key, i)
			switch {
			case c.Name == "":
				faults.add(at+".name", "is required")
			case seen[c.Name]:
				faults.add(at+".name", "%q is given twice", c.Name)
			}
			if c.Image == "" {
				faults.add(at+".image", "is required")
			}
			seen[c.Name] = true
		}
	}
	for i, v := range r.Volumes {
		if v.Name == "" {
			faults.add(fmt.Sprintf("%s.volume[%d].name", name, i), "is required")
		}
	}
	for i, s := range r.PullSecrets {
		if s.Name == "" {
			faults.add(fmt.Sprintf("%s.imagePullSecrets[%d].name", name, i), "is required")
		}
	}
}

type group struct {
	key  string
	list []corev1.Container
}

func (r runtime) groups() []group {
	return []group{{"initContainers", r.InitContainers}, {"csiSidecar", r.Sidecars}, {"containers", r.Containers}}
}

// Names are the runtimes that the configuration knows, sorted.
func (c Config) Names() []string { return slices.Sorted(maps.Keys(c.runtimes)) }

// Digest is 16 hexadecimal digits that change when what these runtimes inject changes. A runtime that is not configured is an error.
func (c Config) Digest(runtimes []string) (string, error) {
	order, err := c.order(runtimes)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	for _, name := range order {
		raw, err := json.Marshal(c.runtimes[name])
		if err != nil {
			return "", fmt.Errorf("digest of %s: %w", name, err)
		}
		_, _ = fmt.Fprintf(sum, "%s %d\n%s\n", name, len(raw), raw)
	}
	return hex.EncodeToString(sum.Sum(nil))[:16], nil
}

// order is agent-runtime, csi, then the others as they are asked for.
func (c Config) order(runtimes []string) ([]string, error) {
	var faults Faults
	var out, rest []string
	for _, first := range []string{runtimeAgent, runtimeCSI} {
		if slices.Contains(runtimes, first) {
			out = append(out, first)
		}
	}
	for i, name := range runtimes {
		if _, ok := c.runtimes[name]; !ok {
			faults.add(fmt.Sprintf("runtimes[%d]", i), "%q is no key of the injection ConfigMap; it has %s", name, strings.Join(c.Names(), ", "))
			continue
		}
		if !slices.Contains(out, name) && !slices.Contains(rest, name) {
			rest = append(rest, name)
		}
	}
	return append(out, rest...), faults.err()
}

var errValues = errors.New("injector: values may hold letters, digits and + / = . _ - only")
