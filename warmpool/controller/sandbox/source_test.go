package sandbox

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

func TestTheSourceOfAMountTellsWhatKindOfVolumeItIs(t *testing.T) {
	size := mount.Ephemeral{Size: 1 << 20}
	for want, spec := range map[string]mount.Spec{
		"data": {Volume: "data"}, "pvc/data": {Volume: "data", Kind: mount.KindClaim}, "pool/data:a/b": {Volume: "data", Kind: mount.KindPool, SubPath: "a/b"},
		"ephemeral/data": {Volume: "data", Ephemeral: size},
	} {
		require.Equal(t, want, wanted{Mount: mount.Mount{Spec: spec}}.source())
	}
	at := func(spec mount.Spec) wanted {
		spec.Volume, spec.Target = "data", "/data"
		return wanted{Mount: mount.Mount{Spec: spec}}
	}
	earlier := v1alpha1.MountStatus{ID: "m", Source: "data", Driver: mount.DriverEphemeral, VolumeHandle: "ephemeral/data", Path: "/data"}
	persistent := v1alpha1.MountStatus{ID: "m", Source: "data", Driver: mount.DriverTmpfs, VolumeHandle: "h-data", Path: "/data"}
	require.False(t, at(mount.Spec{Ephemeral: size}).differs(earlier), "as a controller before the prefix has written it")
	require.True(t, at(mount.Spec{}).differs(earlier), "a PersistentVolume of its name is another")
	require.False(t, at(mount.Spec{}).differs(persistent))
	require.True(t, at(mount.Spec{Ephemeral: size}).differs(persistent))
}

func TestAnUpgradeLeavesAnEphemeralVolumeWhereItIsAndTellsItsSource(t *testing.T) {
	agent := &healthy{} // whose Unpublish panics
	cfg := &Config{Fitter: agent, Volumes: &shelf{}, Policy: mount.DefaultPolicy(), Log: slog.New(slog.DiscardHandler), Check: func(mount.Mount) error { return nil }}
	limits := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
	sb := &v1alpha1.Sandbox{Spec: v1alpha1.SandboxSpec{
		Runtimes: []v1alpha1.Runtime{{Name: v1alpha1.RuntimeCSI}},
		Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{
			{Name: "main", Image: "i", Resources: corev1.ResourceRequirements{Limits: limits}},
		}}},
		Mounts: []v1alpha1.Mount{{ID: "m", Volume: "data", Path: "/data", Ephemeral: &v1alpha1.Ephemeral{Size: resource.MustParse("1Mi")}}},
	}}
	for _, phase := range []string{mounted, failing} { // looked at quickly, and with everything resolved
		sb.Status.Mounts = []v1alpha1.MountStatus{{
			ID: "m", Source: "data", Driver: mount.DriverEphemeral, VolumeHandle: "ephemeral/data", Path: "/data", Phase: phase,
		}}
		var out report
		j := &job{cfg: cfg, sb: sb, now: time.Now(), given: &given{}}
		j.mounts(t.Context(), &out)
		require.False(t, out.missed)
		require.Len(t, out.mounts, 1)
		require.Equal(t, "ephemeral/data", out.mounts[0].Source)
		require.Equal(t, mounted, out.mounts[0].Phase)
		require.Empty(t, agent.given, "nothing is mounted")
	}
}
