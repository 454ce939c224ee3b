package template

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/injector"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// Volumes are a set's volumes as its sandboxes have them where a kubelet mounts them into the agent. An error names everything that is
// wrong with them, by their fields in spec.
func Volumes(set *v1alpha1.SandboxSet) ([]warmpool.PoolVolume, error) {
	var out []warmpool.PoolVolume
	var wrong []string
	var of []int // the volume of each
	for i, v := range set.Spec.Volumes {
		m, faults := Volume(v)
		further, more := Further(v)
		wrong = append(wrong, placed(append(faults, more...).At(i))...)
		if m.Kind == mount.KindPool {
			m.Driver, m.VolumeHandle = mount.DriverPool, "pool/"+v.Name
			m.Attributes, m.AccessMode = map[string]string{"path": mount.PoolDir + "/" + v.Name}, mount.ReadWriteMany
		}
		for _, m := range append([]mount.Mount{m}, further...) {
			out, of = append(out, warmpool.PoolVolume{Mount: m, AtClaim: v.MountAt == v1alpha1.MountAtClaim}), append(of, i)
		}
	}
	if wrong = append(wrong, together(set, out, of)...); len(wrong) > 0 {
		return nil, errors.New(strings.Join(wrong, "; "))
	}
	return out, nil
}

// Fit refuses a set's volumes where they have more places than a sandbox of this installation may have mounts: each place is one.
func Fit(volumes []warmpool.PoolVolume, most int) error {
	if len(volumes) <= most {
		return nil
	}
	return fmt.Errorf("volumes: they have %d places, and a sandbox may have at most %d mounts (policy.limits.mountsPerSandbox of the chart, -max-mounts)", len(volumes), most)
}

// Volume is what is asked for in each sandbox, with what holds wherever it is mounted: a mount without a driver. The faults are those of the
// volume by itself, with index 0.
func Volume(v v1alpha1.PoolVolume) (mount.Mount, mount.Faults) {
	spec := mount.Spec{ID: v.Name, Kind: mount.KindPool, Volume: v.Name, SubPath: v.SubPath, Target: v.MountPath, ReadOnly: v.ReadOnly}
	var faults mount.Faults
	refuse := func(field mount.Field, reason string) {
		faults = append(faults, mount.Fault{Field: field, Reason: reason})
	}
	if sources(v) != 1 {
		refuse("source", "give exactly one of nfs, persistentVolumeClaim, hostPath, persistentVolume and ephemeral")
	}
	switch {
	case v.Ephemeral != nil:
		spec.Kind, spec.Ephemeral, spec.AllowNonEmpty = "", sizeOf(*v.Ephemeral), true
	case v.PersistentVolume != nil:
		spec.Kind, spec.Volume = "", v.PersistentVolume.Name
	case v.NFS != nil:
		spec.ReadOnly = spec.ReadOnly || v.NFS.ReadOnly
		if v.NFS.Server == "" || !path.IsAbs(v.NFS.Path) {
			refuse("nfs", "needs a server and an absolute path")
		}
	case v.PersistentVolumeClaim != nil:
		spec.ReadOnly = spec.ReadOnly || v.PersistentVolumeClaim.ReadOnly
		if v.PersistentVolumeClaim.ClaimName == "" {
			refuse("persistentVolumeClaim", "needs a claimName")
		}
	case v.HostPath != nil:
		switch ptr.Deref(v.HostPath.Type, corev1.HostPathUnset) {
		case corev1.HostPathUnset, corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		default:
			refuse("hostPath", "only directories can be mounted: its type must be Directory or DirectoryOrCreate")
		}
		if !path.IsAbs(v.HostPath.Path) {
			refuse("hostPath", "needs an absolute path")
		}
	}
	parsed, err := mount.Parse(spec)
	if err == nil {
		spec = parsed
		_, err = mount.Expand(spec.SubPath, map[string]string{mount.SandboxID: "i", mount.ActorID: "i"}) // nobody is there yet to be a user
	}
	var bad mount.Faults
	_ = errors.As(err, &bad)
	m := mount.Mount{Spec: spec}
	if spec.Kind == mount.KindPool { // whose readOnly and subPath hold whatever the sandbox tries; an annotation says so of the others
		m.OwnerReadOnly, m.Enforced = spec.ReadOnly, spec.ReadOnly || strings.Contains(spec.SubPath, "${")
	}
	return m, append(faults, bad...)
}

// Further are the other places of an ephemeral volume. Those of another one are a fault.
func Further(v v1alpha1.PoolVolume) (out []mount.Mount, faults mount.Faults) {
	if v.Ephemeral == nil && len(v.Mounts) > 0 {
		return nil, mount.Faults{{Field: "mounts", Reason: "are further places of an ephemeral volume; this one has mountPath only"}}
	}
	for k, p := range v.Mounts {
		spec := mount.Spec{
			ID: fmt.Sprintf("%s.%d", v.Name, k+1), Volume: v.Name, Target: p.MountPath, ReadOnly: p.ReadOnly, Container: p.Container,
			Ephemeral: sizeOf(*v.Ephemeral), AllowNonEmpty: true,
		}
		parsed, err := mount.Parse(spec)
		var bad mount.Faults
		if errors.As(err, &bad) {
			for _, f := range bad {
				if f.Field == mount.FieldTarget || f.Field == mount.FieldContainer { // the rest is the volume's, and told
					faults = append(faults, mount.Fault{Field: mount.Field(fmt.Sprintf("mounts[%d].%s", k, cmp.Or(fields[f.Field], string(f.Field)))), Reason: f.Reason})
				}
			}
			continue
		}
		out = append(out, mount.Mount{Spec: parsed})
	}
	return out, faults
}

// sources counts the sources that are set.
func sources(v v1alpha1.PoolVolume) (n int) {
	for _, set := range []bool{v.NFS != nil, v.PersistentVolumeClaim != nil, v.HostPath != nil, v.PersistentVolume != nil, v.Ephemeral != nil} {
		if set {
			n++
		}
	}
	return n
}

// together is what is wrong with volumes beside each other and the template.
func together(set *v1alpha1.SandboxSet, all []warmpool.PoolVolume, of []int) (wrong []string) {
	if len(all) == 0 {
		return nil
	}
	if !slices.ContainsFunc(set.Spec.Runtimes, func(r v1alpha1.Runtime) bool { return v1alpha1.MountsVolumes(r.Name) }) {
		wrong = append(wrong, fmt.Sprintf("volumes: nothing mounts them: spec.runtimes does not include %q", v1alpha1.RuntimeCSI))
	}
	policy, ms := mount.DefaultPolicy(), make([]mount.Mount, len(all))
	policy.MaxMounts = mount.MostMounts // fewer is the installation's to say: Fit
	policy.Reserved = reserved(set.Spec.Template.Spec.Containers)
	for i, v := range all {
		ms[i] = mount.Mount{Spec: v.Spec, Driver: mount.DriverPool}
	}
	var faults mount.Faults
	_ = errors.As(policy.Admit(ms), &faults)
	faults = append(faults, housed(set, all)...)
	for i := range faults {
		faults[i].Index = of[faults[i].Index]
	}
	for _, line := range placed(faults) {
		if !slices.Contains(wrong, line) {
			wrong = append(wrong, line)
		}
	}
	return wrong
}

// housed is what is wrong with volumes in the containers that are to have them.
func housed(set *v1alpha1.SandboxSet, all []warmpool.PoolVolume) (faults mount.Faults) {
	containers, err := containersOf(set)
	if err != nil {
		return nil //nolint:nilerr // it is told of the template
	}
	specs := make([]mount.Spec, len(all))
	for i, v := range all {
		specs[i] = v.Spec
		if v.Container != "" && !slices.ContainsFunc(containers, func(c warmpool.Container) bool { return c.Name == v.Container && c.Mounts }) {
			faults = append(faults, mount.Fault{Index: i, Field: mount.FieldContainer, Reason: fmt.Sprintf(
				"%q is no container that takes mounts: spec.template must have it and name it in annotation %s", v.Container, injector.AnnotationContainers)})
		}
	}
	return append(faults, warmpool.Template{Containers: containers}.Overfull(specs)...)
}

// fields are the fields of a Spec by the names that they have in a set.
var fields = map[mount.Field]string{
	mount.FieldTarget: "mountPath", mount.FieldVolume: "persistentVolume.name", mount.FieldID: "name",
}

// placed are faults with their places among a set's volumes.
func placed(faults mount.Faults) (out []string) {
	for _, f := range faults {
		out = append(out, fmt.Sprintf("volumes[%d].%s: %s", f.Index, cmp.Or(fields[f.Field], string(f.Field)), f.Reason))
	}
	return out
}

// Mounted are the volumes that the kubelet is to mount into the agent of each pod.
func Mounted(volumes []v1alpha1.PoolVolume) (out []injector.Volume) {
	for _, v := range volumes {
		m, _ := Volume(v)
		if m.Kind != mount.KindPool {
			continue
		}
		src := corev1.VolumeSource{HostPath: v.HostPath.DeepCopy(), NFS: v.NFS.DeepCopy(), PersistentVolumeClaim: v.PersistentVolumeClaim.DeepCopy()}
		switch { // the kubelet's own mount refuses writes, too
		case src.NFS != nil:
			src.NFS.ReadOnly = m.ReadOnly
		case src.PersistentVolumeClaim != nil:
			src.PersistentVolumeClaim.ReadOnly = m.ReadOnly
		}
		out = append(out, injector.Volume{
			Volume: corev1.Volume{Name: "sandgate-pool-" + v.Name, VolumeSource: src}, MountPath: mount.PoolDir + "/" + v.Name, ReadOnly: m.ReadOnly,
		})
	}
	return out
}

// Asked are the mounts of a set's volumes as they are written into a new Sandbox: those that it has before it is claimed, or those that
// come with its claim.
func Asked(volumes []v1alpha1.PoolVolume, atClaim bool) (out []v1alpha1.Mount) {
	for _, v := range volumes {
		if (v.MountAt == v1alpha1.MountAtClaim) == atClaim {
			m, _ := Volume(v)
			further, _ := Further(v)
			for _, m := range append([]mount.Mount{m}, further...) {
				out = append(out, Mount(m.Spec))
			}
		}
	}
	return out
}

// Mount is a spec as a Sandbox has it.
func Mount(s mount.Spec) v1alpha1.Mount {
	m := v1alpha1.Mount{
		ID: s.ID, Kind: string(s.Kind), Volume: s.Volume, Path: s.Target, SubPath: s.SubPath, ReadOnly: s.ReadOnly, Container: s.Container,
		AllowNonEmpty: s.AllowNonEmpty,
	}
	if s.IsEphemeral() {
		m.Ephemeral = &v1alpha1.Ephemeral{Size: *resource.NewQuantity(s.Ephemeral.Size, resource.BinarySI), Inodes: s.Ephemeral.Inodes}
	}
	return m
}

// Spec is one of a Sandbox's mounts as it is written there.
func Spec(m v1alpha1.Mount) mount.Spec {
	s := mount.Spec{
		ID: m.ID, Kind: mount.Kind(m.Kind), Volume: m.Volume, SubPath: m.SubPath, Target: m.Path, ReadOnly: m.ReadOnly, Container: m.Container,
		AllowNonEmpty: m.AllowNonEmpty,
	}
	if s.Kind == "PersistentVolume" {
		s.Kind = ""
	}
	if m.Ephemeral != nil {
		s.Ephemeral = sizeOf(*m.Ephemeral)
	}
	return s
}

// sizeOf is e as mount.Parse reads it: none of them is the zero value, which is no ephemeral volume.
func sizeOf(e v1alpha1.Ephemeral) mount.Ephemeral {
	size := e.Size.Value()
	if size <= 0 {
		size = -1
	}
	return mount.Ephemeral{Size: size, Inodes: e.Inodes}
}
