package sandbox

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest"
)

func TestAVolumeThatIsNotForTheSandboxIsNotMountedAgain(t *testing.T) {
	const smb = "smb.csi.k8s.io"
	elsewhere, here := warmpooltest.TmpfsVolume("elsewhere"), warmpooltest.TmpfsVolume("here")
	for node, pv := range map[string]*corev1.PersistentVolume{"a": here, "b": elsewhere} {
		pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
		}}}}
	}
	cfg := &Config{
		Volumes: warmpooltest.Volumes{"here": here, "elsewhere": elsewhere, "share": warmpooltest.CSIVolume("share", smb, nil)},
		Policy:  mount.DefaultPolicy().With(smb), Plugins: volume.Plugins{"csi-smb": smb}, Check: func(mount.Mount) error { return nil }, Log: slog.New(slog.DiscardHandler),
	}
	sb := &v1alpha1.Sandbox{Spec: v1alpha1.SandboxSpec{
		Runtimes: []v1alpha1.Runtime{{Name: v1alpha1.RuntimeCSI}},
		Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "i"}}}},
	}}
	sb.Status.PodInfo.NodeName = "a"
	faults := map[string]string{
		"here": "", "elsewhere": `PersistentVolume "elsewhere" is not on the node of the sandbox`, "share": `needs driver "smb.csi.k8s.io"`,
	}
	for name := range faults {
		sb.Spec.Mounts = append(sb.Spec.Mounts, v1alpha1.Mount{ID: name, Volume: name, Path: "/" + name})
	}
	got, err := (&job{cfg: cfg, sb: sb}).resolve(t.Context())
	require.NoError(t, err)
	require.Len(t, got, len(faults))
	for _, w := range got {
		require.Contains(t, w.fault, faults[w.ID])
		require.Equal(t, faults[w.ID] == "", w.fault == "", w.fault)
	}
}
