package injector

import (
	"encoding/json"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// AnnotationContainers of a pod template names, comma-separated, the containers beside the first one that volumes can be mounted into. "*"
// is all of them.
const AnnotationContainers = "sandgate.dev/mount-containers"

// Placeholders that the pod fills.
const (
	placeholderContainers = "${CONTAINERS}"
	placeholderContainer  = "${CONTAINER}"
)

// Takers are the names of a template's containers that volumes can be mounted into, in the template's order: the first one always, others
// where the annotation names them. The error is Faults with every name that is no container's.
func Takers(annotations map[string]string, containers []corev1.Container) ([]string, error) {
	var named []string
	for _, name := range strings.Split(annotations[AnnotationContainers], ",") {
		if name = strings.TrimSpace(name); name != "" {
			named = append(named, name)
		}
	}
	var out []string
	for k, c := range containers {
		if k == 0 || slices.Contains(named, c.Name) || slices.Contains(named, "*") {
			out = append(out, c.Name)
		}
	}
	var faults Faults
	for _, name := range named {
		if name != "*" && !slices.Contains(out, name) {
			faults.add("metadata.annotations["+AnnotationContainers+"]", "%q is no container of the template", name)
		}
	}
	return out, faults.err()
}

// mainsOf is what of a runtime's mainContainer each container gets: the first one all of it, the others that take mounts that of the runtime
// which mounts.
func (i *injection) mainsOf(runtime string, main *corev1.Container) (map[string]*corev1.Container, error) {
	if main == nil {
		return nil, nil
	}
	names := i.takers[:1]
	if mounts(runtime) {
		names = i.takers
	}
	out := map[string]*corev1.Container{}
	for _, name := range names {
		filled, err := replace(main, strings.NewReplacer(placeholderContainer, name))
		if err != nil {
			return nil, err
		}
		out[name] = filled
	}
	return out, nil
}

// apart refuses to fit out further containers where nothing would mount into them, or where the agent could not tell which of them hands
// its namespace over: each must see a directory of its own.
func (i *injection) apart(c Config, order []string) {
	if len(i.takers) < 2 {
		return
	}
	at := "metadata.annotations[" + AnnotationContainers + "]"
	k := slices.IndexFunc(order, mounts)
	if k < 0 {
		i.faults.add(at, "names containers for mounts, and none of the runtimes mounts any; add %s", runtimeCSI)
		return
	}
	one, two := i.mains[order[k]][i.takers[0]], i.mains[order[k]][i.takers[1]]
	raw, _ := json.Marshal(c.runtimes[order[k]].Sidecars)
	if one == nil || equality.Semantic.DeepEqual(one.VolumeMounts, two.VolumeMounts) || !strings.Contains(string(raw), placeholderContainers) {
		i.faults.add(at, "runtime %s serves the first container only: volumeMounts of its mainContainer must use %s, and its agent %s",
			order[k], placeholderContainer, placeholderContainers)
	}
}

// ours says whether a runtime injects m into that container.
func (i *injection) ours(container string, m corev1.VolumeMount) bool {
	for _, mains := range i.mains {
		if main := mains[container]; main != nil && contains(main.VolumeMounts, m) {
			return true
		}
	}
	return false
}
