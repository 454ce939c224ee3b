package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest"
)

// furnished gives a set two volumes in a directory: one of each sandbox that is there before a claim, and one that is read by all and comes
// with a claim.
func furnished(s v1alpha1.SandboxSet, dir string) v1alpha1.SandboxSet {
	s.Spec.Runtimes = []v1alpha1.Runtime{{Name: "csi"}}
	s.Spec.Volumes = []v1alpha1.PoolVolume{
		{Name: "work", MountPath: "/work", SubPath: "work/${SANDBOX_ID}", HostPath: &corev1.HostPathVolumeSource{Path: dir}},
		{Name: "models", MountPath: "/models", ReadOnly: true, MountAt: v1alpha1.MountAtClaim, HostPath: &corev1.HostPathVolumeSource{Path: dir}},
	}
	return s
}

func hostDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sandgate-volumes-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755)) //nolint:gosec // users of sandboxes read it
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// furnishedOne claims and starts as the gateway does.
func (r *worldOfContainers) furnishedOne() warmpool.Sandbox {
	r.t.Helper()
	s, err := r.Claim(r.t.Context(), claimOf("base"))
	require.NoError(r.t, err)
	s, err = r.Start(r.t.Context(), s.ID, warmpool.Start{Mounts: []mount.Mount{s.MadeFrom.Volumes[1].Mount}})
	require.NoError(r.t, err)
	return s
}

func TestSandboxesHaveTheVolumesOfTheirPool(t *testing.T) {
	dir := hostDir(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "model"), []byte("weights"), 0o644))
	r := onThisMachine(t, furnished(aReal("base", 2), dir))
	a, b := r.furnishedOne(), r.furnishedOne()
	for _, s := range []warmpool.Sandbox{a, b} {
		out, err := r.sh(s.ID, 1000, "cat /models/model && echo mine > /work/f && ls /work")
		require.NoError(t, err, out)
		require.Equal(t, "weightsf", out[:8])
		out, err = r.sh(s.ID, 0, "echo x > /models/model || mount -o remount,rw /models")
		require.Error(t, err, out)
		text, err := os.ReadFile(filepath.Join(dir, "work", string(s.ID), "f"))
		require.NoError(t, err)
		require.Equal(t, "mine\n", string(text))
		require.Equal(t, "work/"+string(s.ID), s.Mounts[0].SubPath)
		out, err = r.sh(s.ID, 0, "ls /work/.. | grep -c i || true")
		require.NoError(t, err, out)
		require.NotContains(t, out, string(a.ID)+string(b.ID))
	}
	r.stop()
	r.run() // another process takes over the mounts of stock and of what was handed out
	got, err := r.Get(t.Context(), a.ID)
	require.NoError(t, err)
	require.Len(t, got.Mounts, 2)
	out, err := r.sh(a.ID, 1000, "cat /work/f")
	require.NoError(t, err, out)
	c := r.furnishedOne()
	out, err = r.sh(c.ID, 1000, "echo new > /work/f && cat /models/model")
	require.NoError(t, err, out)
}

func TestStockIsReplacedWhenTheVolumesOfItsPoolChange(t *testing.T) {
	w := begin(t, newFake(), func(p *Pool) { p.Reader = warmpooltest.Volumes{} }, furnished(aSet("base", 1), "/srv"))
	w.ready(1)
	before := w.fake.made
	w.change(furnished(aSet("base", 1), "/elsewhere"))
	w.until("stock of the new volumes", func() bool {
		w.fake.mu.Lock()
		defer w.fake.mu.Unlock()
		return w.fake.made > before
	})
	w.ready(1)
}

func TestAClaimOfAPoolIsLookedUpInItsNamespace(t *testing.T) {
	set := furnished(aSet("base", 1), "/srv")
	set.Namespace = "default"
	set.Spec.Volumes = []v1alpha1.PoolVolume{{
		Name: "data", MountPath: "/data", ReadOnly: true, PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"},
	}}
	pv := warmpooltest.TmpfsVolume("pv")
	pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: "data"}
	pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"here"}}},
	}}}}
	published := make(chan mount.Mount, 8)
	f := newFake()
	f.publish = func(_ context.Context, m mount.Mount) error {
		published <- m
		return nil
	}
	on := func(machine string) func(*Pool) {
		return func(p *Pool) {
			p.Node = machine
			p.Reader = claims{warmpooltest.Volumes{"pv": pv}, &corev1.PersistentVolumeClaim{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"},
			}}
		}
	}
	w := begin(t, f, on("here"), set)
	m := <-published
	require.Equal(t, mount.DriverTmpfs, m.Driver)
	require.True(t, m.ReadOnly && m.OwnerReadOnly)
	w.ready(1)

	w = begin(t, newFake(), on("there"), set)
	w.until("the pool says why it cannot be filled", func() bool {
		tpl, err := w.Template(t.Context(), "base")
		return err == nil && strings.Contains(tpl.Reason, "is not on the node of the sandbox")
	})
}

// claims is a Reader with one claim.
type claims struct {
	warmpooltest.Volumes
	one *corev1.PersistentVolumeClaim
}

func (c claims) PersistentVolumeClaim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	if c.one.Namespace == namespace && c.one.Name == name {
		return c.one, nil
	}
	return c.Volumes.PersistentVolumeClaim(ctx, namespace, name)
}

func TestASetWithMorePlacesForVolumesThanASandboxMayHaveMountsIsNoPool(t *testing.T) {
	set := furnished(aSet("base", 0), "/srv")
	set.Spec.Volumes = nil
	for i := range 20 {
		set.Spec.Volumes = append(set.Spec.Volumes, v1alpha1.PoolVolume{
			Name: fmt.Sprint("v", i), MountPath: fmt.Sprint("/data/", i), HostPath: &corev1.HostPathVolumeSource{Path: "/srv"},
		})
	}
	w := begin(t, newFake(), nil, set)
	_, err := w.Template(t.Context(), "base")
	requireCode(t, warmpool.NotFound, err)
	w = begin(t, newFake(), func(p *Pool) { p.MaxMounts = 20 }, set)
	_, err = w.Template(t.Context(), "base")
	require.NoError(t, err)
}
