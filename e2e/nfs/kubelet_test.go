package nfs_test

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/sandgate-dev/sandgate/csiagent/driver/nas"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/template"
)

// furnished is a set with two volumes of an export: a directory for each sandbox, and one that all read.
func furnished(path string) *v1alpha1.SandboxSet {
	export := &corev1.NFSVolumeSource{Server: server, Path: path}
	return &v1alpha1.SandboxSet{Spec: v1alpha1.SandboxSetSpec{
		Runtimes: []v1alpha1.Runtime{{Name: v1alpha1.RuntimeCSI}},
		Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}}},
		Volumes: []v1alpha1.PoolVolume{
			{Name: "work", NFS: export, MountPath: "/work", SubPath: "work/${SANDBOX_ID}"},
			{Name: "models", NFS: export, MountPath: "/models", SubPath: "models", ReadOnly: true},
		},
	}}
}

// kubelet mounts a set's volumes for agents, as the node's does, with a server of that version. Nothing is answered from a cache.
func kubelet(t *testing.T, set *v1alpha1.SandboxSet, version string) {
	t.Helper()
	options := map[string]string{
		"3":   "vers=3,nolock,proto=tcp,mountproto=tcp,actimeo=0,timeo=20,addr=" + server,
		"4.1": "vers=4.1,proto=tcp,actimeo=0,timeo=20,clientaddr=10.9.0.2,addr=" + server,
	}[version]
	for _, v := range template.Mounted(set.Spec.Volumes) {
		var flags uintptr
		if v.ReadOnly {
			require.True(t, v.NFS.ReadOnly)
			flags = unix.MS_RDONLY
		}
		require.NoError(t, os.MkdirAll(v.MountPath, 0o755))
		require.NoError(t, unix.Mount(v.NFS.Server+":"+v.NFS.Path, v.MountPath, "nfs", flags, options))
		t.Cleanup(func() {
			require.NoError(t, unix.Unmount(v.MountPath, unix.MNT_DETACH))
			require.NoError(t, os.Remove(v.MountPath))
		})
	}
}

// had are a set's volumes as a sandbox gets them before it is claimed.
func had(t *testing.T, set *v1alpha1.SandboxSet, sandbox string) (out []mount.Mount) {
	t.Helper()
	all, err := template.Volumes(set)
	require.NoError(t, err)
	for _, v := range all {
		require.False(t, v.AtClaim)
		v.SubPath, err = mount.Expand(v.SubPath, map[string]string{mount.SandboxID: sandbox, mount.ActorID: sandbox})
		require.NoError(t, err)
		v.Owner = mount.Owner{UID: 1000, GID: 1000}
		out = append(out, v.Mount)
	}
	return out
}

// Without the fence it needs the administrator's word: the last test of the package raises one for good.
func unfenced(c *nas.Config) { c.Unfenced = true }

func TestAPoolsExportsAreEachSandboxesOwnAndGoneServersKeepNobodyWaiting(t *testing.T) {
	for _, version := range both {
		t.Run(version, func(t *testing.T) {
			set := furnished(share + "/pool" + version)
			top := set.Spec.Volumes[0].NFS.Path
			require.NoError(t, os.MkdirAll(top+"/models", 0o755))
			require.NoError(t, os.WriteFile(top+"/models/f", []byte("weights"), 0o644))
			t.Cleanup(func() { _ = os.RemoveAll(top) })
			strict, one, two := newWorld(t, nil), newWorld(t, nil, unfenced), newWorld(t, nil, unfenced)
			kubelet(t, set, version)
			t.Cleanup(one.heal) // before anything is unmounted

			for _, m := range had(t, set, "strict") {
				require.ErrorIs(t, strict.Publish(t.Context(), m), mount.ErrDenied, "nothing keeps the sandbox from asking the server itself")
			}
			for id, w := range map[string]*world{"one": one, "two": two} {
				began := time.Now()
				for _, m := range had(t, set, id) {
					require.NoError(t, w.Publish(t.Context(), m))
				}
				t.Log("both published in", time.Since(began))
				require.NoError(t, os.WriteFile(w.path("work", "f"), []byte(id), 0o600))
				var st unix.Stat_t
				require.NoError(t, unix.Stat(top+"/work/"+id, &st))
				require.Equal(t, [3]uint32{0o755, 1000, 1000}, [3]uint32{st.Mode & 0o7777, st.Uid, st.Gid})
				got, err := os.ReadFile(top + "/work/" + id + "/f")
				require.NoError(t, err)
				require.Equal(t, id, string(got))
				got, err = os.ReadFile(w.path("models", "f"))
				require.NoError(t, err)
				require.Equal(t, "weights", string(got))
				require.ErrorIs(t, os.WriteFile(w.path("models", "x"), nil, 0o600), unix.EROFS)
				for _, l := range w.Mounts(t.Context()) {
					require.Equal(t, node.Mounted, l.Phase, l.Target)
				}
			}
			require.NoFileExists(t, one.path("work", "two"))

			one.cut()
			began := time.Now()
			for _, l := range one.Mounts(t.Context()) {
				require.Equal(t, node.VerdictHung, l.Verdict, l.Target)
				require.Contains(t, l.Message, "does not answer")
			}
			t.Log("seen in", time.Since(began))
			again := had(t, set, "one")[0]
			again.ID, again.Target = "again", "/again"
			refused, took := make(chan error, 1), time.Duration(0)
			go func() {
				began := time.Now()
				err := one.Publish(t.Context(), again)
				took = time.Since(began)
				refused <- err
			}()
			began = time.Now()
			memory := mount.Mount{Spec: mount.Spec{Volume: "mem", Target: "/mem"}, Driver: mount.DriverTmpfs, VolumeHandle: "m", Attributes: map[string]string{"size": "1Mi"}}
			require.NoError(t, one.Publish(t.Context(), memory), "others are not in its queue")
			require.Less(t, time.Since(began), 2*time.Second)
			require.ErrorIs(t, <-refused, mount.ErrUnavailable)
			require.Less(t, took, 6*time.Second)
			began = time.Now()
			require.ErrorIs(t, one.Publish(t.Context(), again), mount.ErrUnavailable)
			t.Log("refused in", took, "and once more in", time.Since(began))
			began = time.Now()
			require.ErrorIs(t, one.Unpublish(t.Context(), node.Identity{Target: "/work"}), node.ErrDataLoss)
			require.NoError(t, one.Unpublish(t.Context(), node.Identity{Target: "/models"}), "nobody could write there")
			require.Less(t, time.Since(began), 20*time.Second)
			t.Log("released in", time.Since(began))

			one.heal()
			began = time.Now()
			require.Eventually(t, func() bool { return one.Publish(t.Context(), again) == nil }, 60*time.Second, 100*time.Millisecond)
			t.Log("back", time.Since(began), "after the server")
			got, err := os.ReadFile(one.path("again", "f"))
			require.NoError(t, err)
			require.Equal(t, "one", string(got))
		})
	}
}
