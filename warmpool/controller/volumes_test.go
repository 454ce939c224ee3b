package controller_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

func furnished(s *v1alpha1.SandboxSet) {
	s.Spec.Runtimes = []v1alpha1.Runtime{{Name: "csi"}}
	s.Spec.Volumes = []v1alpha1.PoolVolume{
		{Name: "work", MountPath: "/work", SubPath: "${SANDBOX_ID}", HostPath: &corev1.HostPathVolumeSource{Path: "/srv/work"}},
		{Name: "data", MountPath: "/data", ReadOnly: true, PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}},
		{Name: "late", MountPath: "/late", MountAt: v1alpha1.MountAtClaim, NFS: &corev1.NFSVolumeSource{Server: "nas", Path: "/"}},
	}
}

func TestStockHasTheVolumesOfItsPoolBeforeItIsStock(t *testing.T) {
	w := newWorld(t)
	away := errors.Join(mount.ErrNotFound, errors.New("no such directory"))
	w.fitter.with(func(f *fitter) { f.publish = func(mount.Mount) error { return away } })
	s := w.set("pool", 1, furnished)
	var sb v1alpha1.Sandbox
	w.eventually(func(c *assertT) {
		all := w.sandboxes("pool")
		require.Len(c, all, 1)
		sb = all[0]
		require.NoError(c, w.client.Get(t.Context(), clientKey(s), s))
		require.Equal(c, "VolumeNotMounted", condition(s, v1alpha1.ConditionFilled).Reason)
	})
	require.NotEqual(t, "available", sb.Status.State)
	pod := w.podOf(&sb)
	agent := pod.Spec.InitContainers[0]
	require.Equal(t, []corev1.VolumeMount{
		{Name: "sandgate-pool-work", MountPath: mount.PoolDir + "/work"}, {Name: "sandgate-pool-data", MountPath: mount.PoolDir + "/data", ReadOnly: true},
		{Name: "sandgate-pool-late", MountPath: mount.PoolDir + "/late"},
	}, agent.VolumeMounts)
	require.Empty(t, pod.Spec.Containers[0].VolumeMounts)

	w.fitter.with(func(f *fitter) { f.publish = nil })
	w.full(s)
	sb = *w.get(&sb)
	require.Equal(t, "available", sb.Status.State)
	require.Equal(t, "2/2", sb.Status.MountSummary)
	require.Equal(t, "pool/work:"+sb.Labels[v1alpha1.LabelSandboxID], sb.Status.Mounts[0].Source)
	require.ElementsMatch(t, []string{"pool/work /work", "pool/data /data"}, w.fitter.mounted(&sb))

	first := condition(s, v1alpha1.ConditionFilled)
	require.Equal(t, "Filled", first.Reason)
	edit(w, s, func(s *v1alpha1.SandboxSet) { s.Spec.Volumes[0].HostPath.Path = "/srv/other" })
	w.eventually(func(c *assertT) {
		all := w.sandboxes("pool")
		require.Len(c, all, 1)
		require.NotEqual(c, sb.Name, all[0].Name, "another volume is another revision")
		require.Equal(c, "/srv/other", all[0].Spec.Volumes[0].HostPath.Path)
		require.Equal(c, "available", all[0].Status.State)
	})
}

func TestVolumesThatComeWithAClaimAreTheControllersIfTheRequestIsOver(t *testing.T) {
	w := newWorld(t)
	w.full(w.set("pool", 1, furnished))
	one := w.sandboxes("pool")[0]
	sb, err := w.claim(&one, v1alpha1.Mount{ID: "late", Kind: "PoolVolume", Volume: "late", Path: "/late"})
	require.NoError(t, err)
	w.phases(sb, "work Mounted", "data Mounted", "late Mounted")
	require.Contains(t, w.fitter.mounted(sb), "pool/late /late")
}
