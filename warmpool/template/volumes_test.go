package template_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/injector"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/template"
)

func setOf(volumes ...v1alpha1.PoolVolume) *v1alpha1.SandboxSet {
	s := &v1alpha1.SandboxSet{}
	s.Name, s.Namespace = "base", "pools"
	s.Spec.Runtimes = []v1alpha1.Runtime{{Name: "csi"}}
	s.Spec.Template.Spec.Containers = []corev1.Container{{Name: "sandbox", VolumeMounts: []corev1.VolumeMount{{Name: "x", MountPath: "/own"}}}}
	s.Spec.Volumes = volumes
	return s
}

func host(name, target string, change ...func(*v1alpha1.PoolVolume)) v1alpha1.PoolVolume {
	v := v1alpha1.PoolVolume{Name: name, MountPath: target, HostPath: &corev1.HostPathVolumeSource{Path: "/srv/" + name}}
	for _, f := range change {
		f(&v)
	}
	return v
}

func TestAPoolsVolumesAreAskedForAndMounted(t *testing.T) {
	set := setOf(
		host("work", "/work/", func(v *v1alpha1.PoolVolume) { v.SubPath = "${SANDBOX_ID}/w" }),
		v1alpha1.PoolVolume{Name: "models", MountPath: "/models", MountAt: v1alpha1.MountAtClaim, NFS: &corev1.NFSVolumeSource{Server: "nas", Path: "/m", ReadOnly: true}},
		v1alpha1.PoolVolume{Name: "cache", MountPath: "/cache", ReadOnly: true, PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}},
		v1alpha1.PoolVolume{Name: "bucket", MountPath: "/bucket", PersistentVolume: &v1alpha1.PersistentVolumeSource{Name: "oss"}},
	)
	all, err := template.Volumes(set)
	require.NoError(t, err)
	require.Equal(t, warmpool.PoolVolume{Mount: mount.Mount{
		Spec:   mount.Spec{ID: "work", Kind: mount.KindPool, Volume: "work", SubPath: "${SANDBOX_ID}/w", Target: "/work"},
		Driver: mount.DriverPool, VolumeHandle: "pool/work", Attributes: map[string]string{"path": mount.PoolDir + "/work"},
		AccessMode: mount.ReadWriteMany, Enforced: true,
	}}, all[0])
	require.True(t, all[1].AtClaim && all[1].ReadOnly && all[1].OwnerReadOnly && all[1].Enforced)
	require.Equal(t, mount.Spec{ID: "bucket", Volume: "oss", Target: "/bucket"}, all[3].Spec)
	require.Empty(t, all[3].Driver, "whoever claims the sandbox must be allowed to have it")

	require.Equal(t, []v1alpha1.Mount{
		{ID: "work", Kind: "PoolVolume", Volume: "work", Path: "/work", SubPath: "${SANDBOX_ID}/w"},
		{ID: "cache", Kind: "PoolVolume", Volume: "cache", Path: "/cache", ReadOnly: true},
		{ID: "bucket", Volume: "oss", Path: "/bucket"},
	}, template.Asked(set.Spec.Volumes, false))
	require.Equal(t, []v1alpha1.Mount{
		{ID: "models", Kind: "PoolVolume", Volume: "models", Path: "/models", ReadOnly: true},
	}, template.Asked(set.Spec.Volumes, true))

	agents := template.Mounted(set.Spec.Volumes)
	require.Len(t, agents, 3)
	require.Equal(t, injector.Volume{
		Volume:    corev1.Volume{Name: "sandgate-pool-work", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv/work"}}},
		MountPath: mount.PoolDir + "/work",
	}, agents[0])
	require.True(t, agents[1].ReadOnly && agents[1].NFS.ReadOnly)
	require.True(t, agents[2].ReadOnly && agents[2].PersistentVolumeClaim.ReadOnly)
	require.False(t, set.Spec.Volumes[2].PersistentVolumeClaim.ReadOnly, "the set is left alone")
}

func TestAPoolsVolumesAreRefusedWithTheirPlaces(t *testing.T) {
	for name, c := range map[string]struct {
		set  *v1alpha1.SandboxSet
		want []string
	}{
		"reserved targets": {setOf(host("a", "/usr/x"), host("b", "/own/below")), []string{"volumes[0].mountPath: must not be below /usr", "volumes[1].mountPath: must not be below /own"}},
		"nested targets":   {setOf(host("a", "/work"), host("b", "/work/x")), []string{"volumes[1].mountPath: lies inside /work"}},
		"paths that climb": {setOf(host("a", "/work", func(v *v1alpha1.PoolVolume) { v.SubPath = "../x" })), []string{"volumes[0].subPath: must not contain"}},
		"a user's directory, before there is a user": {setOf(host("a", "/work", func(v *v1alpha1.PoolVolume) { v.SubPath = "${USER_ID}" })), []string{
			"volumes[0].subPath: ${USER_ID} has no value here",
		}},
		"a socket of the node": {setOf(host("a", "/work", func(v *v1alpha1.PoolVolume) { v.HostPath.Type = ptr.To(corev1.HostPathSocket) })), []string{
			"volumes[0].hostPath: only directories",
		}},
		"nothing that mounts": {func() *v1alpha1.SandboxSet {
			s := setOf(host("a", "/work"))
			s.Spec.Runtimes = nil
			return s
		}(), []string{`spec.runtimes does not include "csi"`}},
		"sources that say nothing": {setOf(
			v1alpha1.PoolVolume{Name: "a", MountPath: "/a", NFS: &corev1.NFSVolumeSource{}},
			v1alpha1.PoolVolume{Name: "b", MountPath: "/b", PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}},
			v1alpha1.PoolVolume{Name: "c", MountPath: "/c", HostPath: &corev1.HostPathVolumeSource{Path: "x"}},
		), []string{"volumes[0].nfs:", "volumes[1].persistentVolumeClaim:", "volumes[2].hostPath:"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := template.Volumes(c.set)
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
			_, err = template.Of(c.set)
			require.Error(t, err)
		})
	}
}

func TestASetHasAsManyPlacesForVolumesAsTheInstallationAllows(t *testing.T) {
	places := func(n int) *v1alpha1.SandboxSet {
		var volumes []v1alpha1.PoolVolume
		for i := range n {
			volumes = append(volumes, host(fmt.Sprint("v", i), fmt.Sprint("/data/", i)))
		}
		return setOf(volumes...)
	}
	all, err := template.Volumes(places(mount.MostMounts))
	require.NoError(t, err)
	require.NoError(t, template.Fit(all, mount.MostMounts))
	require.ErrorContains(t, template.Fit(all, mount.DefaultMaxMounts), "volumes: they have 64 places, and a sandbox may have at most 16 mounts")
	_, err = template.Volumes(places(mount.MostMounts + 1))
	require.ErrorContains(t, err, "a sandbox may have at most 64 mounts", "no Sandbox holds more")
}

func TestAnEphemeralVolumeIsInEachContainerThatTheSetSays(t *testing.T) {
	state := v1alpha1.PoolVolume{
		Name: "state", MountPath: "/srv/runtime", Ephemeral: &v1alpha1.Ephemeral{Size: resource.MustParse("64Mi"), Inodes: 99},
		Mounts: []v1alpha1.PoolMount{{Container: "reader", MountPath: "/srv/runtime", ReadOnly: true}},
	}
	set := func(change func(*v1alpha1.SandboxSet)) *v1alpha1.SandboxSet {
		s := setOf(*state.DeepCopy())
		limit := corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}}
		s.Spec.Template.Annotations = map[string]string{"sandgate.dev/mount-containers": "reader"}
		s.Spec.Template.Spec.Containers = []corev1.Container{{Name: "writer", Resources: limit}, {Name: "reader", Resources: limit}, {Name: "third"}}
		if change != nil {
			change(s)
		}
		return s
	}
	require.Equal(t, injector.AnnotationContainers, v1alpha1.AnnotationContainers)
	got, err := template.Of(set(nil))
	require.NoError(t, err)
	size := mount.Ephemeral{Size: 64 << 20, Inodes: 99}
	want := []mount.Spec{
		{ID: "state", Volume: "state", Target: "/srv/runtime", Ephemeral: size, AllowNonEmpty: true},
		{ID: "state.1", Volume: "state", Target: "/srv/runtime", Ephemeral: size, AllowNonEmpty: true, Container: "reader", ReadOnly: true},
	}
	require.Equal(t, want, []mount.Spec{got.Volumes[0].Spec, got.Volumes[1].Spec})
	var written []mount.Spec
	for _, m := range template.Asked(set(nil).Spec.Volumes, false) {
		written = append(written, template.Spec(m))
	}
	require.Equal(t, want, written, "and in the Sandbox")
	require.Empty(t, template.Mounted(set(nil).Spec.Volumes), "no kubelet mounts it")

	for name, c := range map[string]struct {
		change func(*v1alpha1.SandboxSet)
		want   string
	}{
		"more than the writer's memory": {func(s *v1alpha1.SandboxSet) { s.Spec.Volumes[0].Ephemeral.Size = resource.MustParse("65Mi") }, `volumes[0].size: what container "writer"`},
		"no memory limit":               {func(s *v1alpha1.SandboxSet) { s.Spec.Template.Spec.Containers[0].Resources.Limits = nil }, "volumes[0].size: container \"writer\" has no memory limit"},
		"a container that takes none":   {func(s *v1alpha1.SandboxSet) { s.Spec.Volumes[0].Mounts[0].Container = "third" }, `volumes[0].container: "third" is no container that takes mounts`},
		"a path below /tmp":             {func(s *v1alpha1.SandboxSet) { s.Spec.Volumes[0].Mounts[0].MountPath = "/tmp/x" }, "volumes[0].mounts[0].mountPath: must not be below /tmp"},
		"no size":                       {func(s *v1alpha1.SandboxSet) { s.Spec.Volumes[0].Ephemeral.Size = resource.Quantity{} }, "volumes[0].size: is required"},
		"a sub path":                    {func(s *v1alpha1.SandboxSet) { s.Spec.Volumes[0].SubPath = "x" }, "volumes[0].subPath: an ephemeral volume is empty"},
		"two sources":                   {func(s *v1alpha1.SandboxSet) { s.Spec.Volumes[0].NFS = &corev1.NFSVolumeSource{Server: "s", Path: "/"} }, "volumes[0].source: give exactly one"},
		"places of another volume": {func(s *v1alpha1.SandboxSet) {
			s.Spec.Volumes[0].Ephemeral, s.Spec.Volumes[0].HostPath = nil, &corev1.HostPathVolumeSource{Path: "/srv/x"}
		}, "volumes[0].mounts: are further places of an ephemeral volume"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := template.Volumes(set(c.change))
			require.ErrorContains(t, err, c.want)
		})
	}
}
