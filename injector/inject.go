package injector

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"
)

// Values fill the placeholders of runtimes: ${SANDBOX_ID}, ${AGENT_SECRET} and ${INIT_KEY}. None is a secret. Two more are the pod's own:
// ${CONTAINERS} is the list of containers that take mounts, and ${CONTAINER}, in mainContainer, the one that it is merged into.
type Values struct {
	// SandboxID is the sandbox's ID in the API.
	SandboxID string
	// AgentSecret is the name of the Secret with the agent's certificate.
	AgentSecret string
	// InitKey is the public key, in base64, by whose holder the daemon lets itself be initialised.
	InitKey string
	// Volumes are mounted into the agent, which is the last sidecar of the runtime that mounts volumes, and into nothing else.
	Volumes []Volume
}

// Volume is one that the kubelet mounts into the agent.
type Volume struct {
	corev1.Volume
	// MountPath is the directory in the agent.
	MountPath string
	ReadOnly  bool
}

// withVolumes is the runtime of the agent with the volumes that it is given.
func (i *injection) withVolumes(name string, r runtime, volumes []Volume) runtime {
	if len(volumes) == 0 || !mounts(name) {
		return r
	}
	if len(r.Sidecars) == 0 {
		i.faults.add(name+".csiSidecar", "has no agent to give volumes to")
		return r
	}
	r.Sidecars, r.Volumes = slices.Clone(r.Sidecars), slices.Clone(r.Volumes)
	last := len(r.Sidecars) - 1
	agent := r.Sidecars[last].DeepCopy()
	for _, v := range volumes {
		if v.HostPath != nil {
			i.hostPath(fmt.Sprintf("volume %q", v.Name), v.HostPath.Path)
		}
		r.Volumes = append(r.Volumes, v.Volume)
		agent.VolumeMounts = append(agent.VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: v.MountPath, ReadOnly: v.ReadOnly})
	}
	r.Sidecars[last] = *agent
	return r
}

var valueGrammar = regexp.MustCompile(`^[A-Za-z0-9+/=._-]*$`)

// fill returns r with the placeholders replaced, for a pod whose containers take mounts. The values are of a grammar that cannot end a
// JSON string.
func (v Values) fill(r runtime, containers []string) (runtime, error) {
	for _, value := range append([]string{v.SandboxID, v.AgentSecret, v.InitKey}, containers...) {
		if !valueGrammar.MatchString(value) {
			return runtime{}, errValues
		}
	}
	return replace(r, strings.NewReplacer(
		PlaceholderSandboxID, v.SandboxID, PlaceholderAgentSecret, v.AgentSecret, PlaceholderInitKey, v.InitKey,
		placeholderContainers, strings.Join(containers, ","),
	))
}

// replace is value with the placeholders in all of its text replaced.
func replace[T any](value T, with *strings.Replacer) (out T, err error) {
	raw, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal([]byte(with.Replace(string(raw))), &out)
	}
	if err != nil {
		return out, fmt.Errorf("injector: %w", err)
	}
	return out, nil
}

// Inject returns a copy of pod with what the runtimes inject. Injecting again changes nothing. The error is Faults with every clash and
// everything in the template that would break the walls between it and the injected parts.
func Inject(pod *corev1.Pod, c Config, runtimes []string, v Values) (*corev1.Pod, error) {
	order, err := c.order(runtimes)
	if err != nil {
		return nil, err
	}
	if len(pod.Spec.Containers) == 0 {
		return nil, Faults{"spec.containers: want at least one container; the first is the sandbox"}
	}
	i := injection{pod: pod.DeepCopy(), mains: map[string]map[string]*corev1.Container{}}
	if i.takers, err = Takers(pod.Annotations, pod.Spec.Containers); err != nil {
		return nil, err
	}
	parts := map[string]runtime{}
	for _, name := range order {
		if parts[name], err = v.fill(c.runtimes[name], i.takers); err != nil {
			return nil, err
		}
		parts[name] = i.withVolumes(name, parts[name], v.Volumes)
		i.parts = append(i.parts, parts[name])
		if i.mains[name], err = i.mainsOf(name, parts[name].MainContainer); err != nil {
			return nil, err
		}
	}
	i.safe()
	i.apart(c, order)
	for _, name := range order {
		i.merge(name, parts[name])
	}
	i.place(order, parts)
	for k := range i.pod.Spec.Containers {
		i.chain(k, i.hooks(order, i.pod.Spec.Containers[k].Name))
	}
	if err := i.faults.err(); err != nil {
		return nil, err
	}
	return i.pod, nil
}

// injection is one run of Inject.
type injection struct {
	pod    *corev1.Pod
	parts  []runtime
	takers []string                                // the containers that take mounts, the first one first
	mains  map[string]map[string]*corev1.Container // by runtime and container: what of it is merged into that one
	faults Faults
}

func (i *injection) merge(name string, r runtime) {
	for _, v := range r.Volumes {
		i.pod.Spec.Volumes = add(i, i.pod.Spec.Volumes, v, "spec.volumes", name, func(v corev1.Volume) string { return v.Name })
	}
	for _, s := range r.PullSecrets {
		i.pod.Spec.ImagePullSecrets = add(i, i.pod.Spec.ImagePullSecrets, s, "spec.imagePullSecrets", name, func(s corev1.LocalObjectReference) string { return s.Name })
	}
	for _, c := range r.Containers {
		i.pod.Spec.Containers = add(i, i.pod.Spec.Containers, c, "spec.containers", name, containerName)
	}
	for k := range i.pod.Spec.Containers {
		c, at := &i.pod.Spec.Containers[k], fmt.Sprintf("spec.containers[%d]", k)
		m := i.mains[name][c.Name]
		if m == nil {
			continue
		}
		for _, e := range m.Env {
			c.Env = add(i, c.Env, e, at+".env", name, func(e corev1.EnvVar) string { return e.Name })
		}
		for _, vm := range m.VolumeMounts {
			c.VolumeMounts = add(i, c.VolumeMounts, vm, at+".volumeMounts", name, func(vm corev1.VolumeMount) string { return vm.MountPath })
		}
	}
	i.pod.Annotations = i.keys(i.pod.Annotations, r.Annotations, "metadata.annotations", name)
	i.pod.Labels = i.keys(i.pod.Labels, r.Labels, "metadata.labels", name)
}

func containerName(c corev1.Container) string { return c.Name }

// add appends item unless the same is there already; another one of its key is a clash.
func add[T any](i *injection, list []T, item T, path, runtime string, key func(T) string) []T {
	at := slices.IndexFunc(list, func(have T) bool { return key(have) == key(item) })
	if at < 0 {
		return append(list, item)
	}
	if !equality.Semantic.DeepEqual(list[at], item) {
		i.faults.add(fmt.Sprintf("%s[%d]", path, at), "%q is another one than runtime %s injects under that name; rename the template's", key(item), runtime)
	}
	return list
}

func (i *injection) keys(have, more map[string]string, path, runtime string) map[string]string {
	for k, v := range more {
		old, there := have[k]
		if there && old != v {
			i.faults.add(path+"["+k+"]", "is %q, and runtime %s injects %q", old, runtime, v)
		}
		if have == nil {
			have = map[string]string{}
		}
		have[k] = v
	}
	return have
}

// place puts what is injected before the template's own init containers: first those that end, then the sidecars, which are init
// containers that go on.
func (i *injection) place(order []string, parts map[string]runtime) {
	var first []corev1.Container
	insert := func(c corev1.Container, runtime string) {
		first = add(i, first, c, "spec.initContainers", runtime, containerName)
	}
	for _, name := range order {
		for _, c := range parts[name].InitContainers {
			insert(c, name)
		}
	}
	for _, name := range order {
		for _, c := range sidecars(parts[name]) {
			insert(c, name)
		}
	}
	rest := i.pod.Spec.InitContainers
	for _, c := range first {
		at := slices.IndexFunc(rest, func(have corev1.Container) bool { return have.Name == c.Name })
		switch {
		case at < 0:
		case !equality.Semantic.DeepEqual(rest[at], c):
			i.faults.add(fmt.Sprintf("spec.initContainers[%d]", at), "%q is the name of an injected container; rename the template's", c.Name)
		default:
			rest = slices.Delete(slices.Clone(rest), at, at+1)
		}
		if slices.ContainsFunc(i.pod.Spec.Containers, func(have corev1.Container) bool { return have.Name == c.Name }) {
			i.faults.add("spec.containers", "%q is the name of an injected container; rename the template's", c.Name)
		}
	}
	i.pod.Spec.InitContainers = append(first, rest...)
}

// sidecars are native ones whatever the configuration says.
func sidecars(r runtime) []corev1.Container {
	out := slices.Clone(r.Sidecars)
	for k := range out {
		out[k].RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	}
	return out
}

// mounts says whether a runtime is csi, or csi-NAME, which takes its place.
func mounts(name string) bool { return name == runtimeCSI || strings.HasPrefix(name, runtimeCSI+"-") }

// hooks are the runtimes' postStart commands for a container: csi first, so that volumes can be attached as early as can be, then the
// others in order.
func (i *injection) hooks(order []string, container string) (out [][]string) {
	byHook := slices.Clone(order)
	slices.SortStableFunc(byHook, func(a, b string) int {
		switch first, second := mounts(a), mounts(b); {
		case first == second:
			return 0
		case first:
			return -1
		}
		return 1
	})
	for _, name := range byHook {
		if m := i.mains[name][container]; m != nil && m.Lifecycle != nil {
			out = append(out, m.Lifecycle.PostStart.Exec.Command)
		}
	}
	return out
}

// chain makes one postStart of the commands injected into container k and the template's own: each runs what follows its "--". No shell is needed, and
// the template's command keeps its arguments and its exit status.
func (i *injection) chain(k int, commands [][]string) {
	if len(commands) == 0 {
		return
	}
	var ours []string
	for _, c := range commands {
		if len(ours) > 0 {
			ours = append(ours, "--")
		}
		ours = append(ours, c...)
	}
	main := &i.pod.Spec.Containers[k]
	if main.Lifecycle == nil {
		main.Lifecycle = &corev1.Lifecycle{}
	}
	own := main.Lifecycle.PostStart
	switch {
	case own == nil:
	case own.Exec == nil || len(own.Exec.Command) == 0:
		i.faults.add(fmt.Sprintf("spec.containers[%d].lifecycle.postStart", k), "only an exec command can be chained behind the injected one; make it one")
		return
	case slices.Equal(own.Exec.Command, ours), len(own.Exec.Command) > len(ours) && slices.Equal(own.Exec.Command[:len(ours)+1], append(slices.Clone(ours), "--")):
		return // chained before
	default:
		ours = append(append(ours, "--"), own.Exec.Command...)
	}
	main.Lifecycle.PostStart = &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: ours}}
}
