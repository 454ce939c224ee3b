package volume_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

// bound are a claim and its volume, as a cluster binds them.
func bound() (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) {
	pvc := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "pools", Name: "work", UID: "u", Annotations: map[string]string{}}}
	pvc.Spec.VolumeName, pvc.Status.Phase = "pv", corev1.ClaimBound
	pv := tmpfs(func(pv *corev1.PersistentVolume) {
		pv.Annotations = map[string]string{}
		pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "pools", Name: "work", UID: "u"}
	})
	return pvc, pv
}

func ofClaim(name string) mount.Spec {
	s := spec(name)
	s.Kind = mount.KindClaim
	return s
}

func inPools(specs ...mount.Spec) volume.Request {
	r := request(specs...)
	r.Template.Namespace = "pools"
	return r
}

const foreignClaim = "no PersistentVolumeClaim of that name that you may mount"

func TestAClaimIsResolvedByItsName(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*corev1.PersistentVolumeClaim, *corev1.PersistentVolume)
		by     volume.Default
		want   string // a part of the reason, empty when it is mounted
	}{
		"the claim names the team": {func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			c.Annotations[v1alpha1.AnnotationTeams] = "red"
		}, "", ""},
		"its volume names the team": {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
			v.Annotations[v1alpha1.AnnotationTeams] = "red"
		}, "", ""},
		"the claim names the key": {func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			c.Annotations[v1alpha1.AnnotationKeys] = "k1"
		}, "", ""},
		"everybody may mount everything": {func(*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) {}, volume.Allow, ""},
		"nobody is named":                {func(*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) {}, "", foreignClaim},
		"another team is named": {func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			c.Annotations[v1alpha1.AnnotationTeams] = "blue"
		}, volume.Allow, foreignClaim},
		"the claim's word goes before its volume's": {func(c *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
			c.Annotations[v1alpha1.AnnotationTeams], v.Annotations[v1alpha1.AnnotationTeams] = "blue", "red"
		}, "", foreignClaim},
		"it is not bound": {func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			c.Annotations[v1alpha1.AnnotationTeams], c.Spec.VolumeName = "red", ""
		}, "", "is not bound to a volume yet"},
		"it is pending": {func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			c.Annotations[v1alpha1.AnnotationTeams], c.Status.Phase = "red", corev1.ClaimPending
		}, "", "is not bound to a volume yet"},
		"it is not bound and names nobody": {func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) { c.Spec.VolumeName = "" }, "", foreignClaim},
		"its volume is gone": {func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			c.Annotations[v1alpha1.AnnotationTeams], c.Spec.VolumeName = "red", "other"
		}, "", "has lost its volume"},
		"its volume is another claim's": {func(c *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
			c.Annotations[v1alpha1.AnnotationTeams], v.Spec.ClaimRef.Name = "red", "theirs"
		}, "", "is not its own"},
		"its volume was an earlier claim's of that name": {func(c *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
			c.Annotations[v1alpha1.AnnotationTeams], v.Spec.ClaimRef.UID = "red", "old"
		}, "", "is not its own"},
		"its volume is nobody's": {func(c *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
			c.Annotations[v1alpha1.AnnotationTeams], v.Spec.ClaimRef = "red", nil
		}, "", "is not its own"},
		"it is being deleted": {func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			c.Annotations[v1alpha1.AnnotationTeams], c.DeletionTimestamp = "red", &metav1.Time{}
		}, "", "is being deleted"},
		"its volume needs a driver that is not here": {func(c *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
			c.Annotations[v1alpha1.AnnotationTeams], v.Spec.CSI.Driver = "red", "ebs.csi.aws.com"
		}, "", `needs driver "ebs.csi.aws.com", which is not installed here`},
		"its volume is a block device": {func(c *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
			block := corev1.PersistentVolumeBlock
			c.Annotations[v1alpha1.AnnotationTeams], v.Spec.VolumeMode = "red", &block
		}, "", "volumeMode Block"},
	} {
		t.Run(name, func(t *testing.T) {
			pvc, pv := bound()
			c.change(pvc, pv)
			r := &objects{volumes: map[string]*corev1.PersistentVolume{"pv": pv}, claims: map[string]*corev1.PersistentVolumeClaim{"pools/work": pvc}}
			req := inPools(ofClaim("work"))
			req.Default = c.by
			got, err := volume.Resolve(t.Context(), r, req)
			if c.want != "" {
				require.ErrorContains(t, err, c.want)
				require.Empty(t, got[0].Driver)
				return
			}
			require.NoError(t, err)
			require.Equal(t, mount.DriverTmpfs, got[0].Driver)
			require.Equal(t, "handle", got[0].VolumeHandle)
			require.Equal(t, ofClaim("work"), got[0].Spec)
			require.Equal(t, "handle", volume.Handle(t.Context(), r, req.Template, got[0].Spec))
		})
	}
}

func TestAForeignClaimAndAMissingOneAreToldAlike(t *testing.T) {
	pvc, pv := bound()
	pvc.Annotations[v1alpha1.AnnotationTeams] = "blue"
	r := &objects{volumes: map[string]*corev1.PersistentVolume{"pv": pv}, claims: map[string]*corev1.PersistentVolumeClaim{"pools/work": pvc, "elsewhere/far": pvc}}
	_, foreign := volume.Resolve(t.Context(), r, inPools(ofClaim("work")))
	_, missing := volume.Resolve(t.Context(), r, inPools(ofClaim("none")))
	_, far := volume.Resolve(t.Context(), r, inPools(ofClaim("far")))
	require.Equal(t, missing, foreign)
	require.Equal(t, missing, far, "claims of other namespaces are none")
	r.fail = map[string]error{"pools/work": errors.New("etcd is down")}
	_, err := volume.Resolve(t.Context(), r, inPools(ofClaim("work")))
	require.Equal(t, warmpool.Unavailable, warmpool.CodeOf(err))
}

func TestWhatAClaimDemandsHoldsBesideItsVolumesDemands(t *testing.T) {
	pvc, pv := bound()
	pvc.Annotations = map[string]string{v1alpha1.AnnotationTeams: "red", v1alpha1.AnnotationSubPath: "${TEAM}", v1alpha1.AnnotationTargets: "/data/in,/mnt"}
	pv.Annotations = map[string]string{v1alpha1.AnnotationSubPath: "tenants", v1alpha1.AnnotationReadOnly: "true", v1alpha1.AnnotationTargets: "/data"}
	r := &objects{volumes: map[string]*corev1.PersistentVolume{"pv": pv}, claims: map[string]*corev1.PersistentVolumeClaim{"pools/work": pvc}}
	s := ofClaim("work")
	_, err := volume.Resolve(t.Context(), r, inPools(s))
	require.ErrorContains(t, err, `PersistentVolumeClaim "work" may be mounted below /data/in only`)
	s.Target = "/data/in/x"
	got, err := volume.Resolve(t.Context(), r, inPools(s))
	require.NoError(t, err)
	require.Equal(t, "tenants/red", got[0].Prefix)
	require.True(t, got[0].ReadOnly && got[0].OwnerReadOnly && got[0].Enforced)
}

func TestAPoolsVolumeIsItsTemplates(t *testing.T) {
	pvc, pv := bound() // of nobody that is named: the template's author may use it
	r := &objects{volumes: map[string]*corev1.PersistentVolume{"pv": pv}, claims: map[string]*corev1.PersistentVolumeClaim{"pools/work": pvc}}
	s := mount.Spec{ID: "shared", Kind: mount.KindPool, Volume: "shared", Target: "/data", ReadOnly: true}
	req := inPools(s)
	_, err := volume.Resolve(t.Context(), r, req)
	require.ErrorContains(t, err, `has no volume "shared"`)

	kubelets := warmpool.PoolVolume{Mount: mount.Mount{
		Spec: s, Driver: mount.DriverPool, VolumeHandle: "pool/shared", Attributes: map[string]string{"path": "/p"}, OwnerReadOnly: true, Enforced: true,
	}}
	req.Template.Volumes = []warmpool.PoolVolume{kubelets}
	got, err := volume.Resolve(t.Context(), r, req)
	require.NoError(t, err)
	want := kubelets.Mount
	want.Owner = req.Template.Owner
	require.Equal(t, []mount.Mount{want}, got)
	require.Equal(t, "pool/shared", volume.Handle(t.Context(), r, req.Template, s))

	req.Template.Volumes = []warmpool.PoolVolume{{Mount: mount.Mount{Spec: s, OwnerReadOnly: true, Enforced: true}, Claim: "work"}}
	got, err = volume.Resolve(t.Context(), r, req)
	require.NoError(t, err)
	require.Equal(t, mount.DriverTmpfs, got[0].Driver)
	require.True(t, got[0].ReadOnly && got[0].OwnerReadOnly && got[0].Enforced)
	require.Equal(t, "handle", volume.Handle(t.Context(), r, req.Template, s))
	pvc.Spec.VolumeName = ""
	_, err = volume.Resolve(t.Context(), r, req)
	require.ErrorContains(t, err, "is not bound to a volume yet")
}

func TestNoPersistentVolumeHasTheDriverOfPools(t *testing.T) {
	r := &objects{volumes: map[string]*corev1.PersistentVolume{"pv": tmpfs(func(pv *corev1.PersistentVolume) { pv.Spec.CSI.Driver = mount.DriverPool })}}
	req := request(spec("pv"))
	req.Drivers = append(req.Drivers, mount.DriverPool)
	_, err := volume.Resolve(t.Context(), r, req)
	require.ErrorContains(t, err, "only volumes of a SandboxSet have")
}
