package volume_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

func TestAForeignDriverIsForTemplatesThatBringIt(t *testing.T) {
	const smb = "smb.csi.k8s.io"
	ours := func(pv *corev1.PersistentVolume) {
		pv.Spec.CSI.Driver, pv.Spec.CSI.VolumeAttributes = smb, nil
		pv.Spec.CSI.NodePublishSecretRef = &corev1.SecretReference{Namespace: "sandbox-system", Name: "cred"}
	}
	claim, claimed := bound()
	ours(claimed)
	r := &objects{
		volumes: map[string]*corev1.PersistentVolume{"share": tmpfs(ours), "memory": tmpfs(), "pv": claimed},
		claims:  map[string]*corev1.PersistentVolumeClaim{"pools/work": claim},
		secrets: map[string]*corev1.Secret{"sandbox-system/cred": secret(nil)},
	}
	const elsewhere = `needs driver "smb.csi.k8s.io", which is not in the sandboxes of template "base": take one with runtime "csi-smb" or "csi-smb2"`
	for name, c := range map[string]struct {
		runtimes []string
		spec     mount.Spec
		want     string
	}{
		"with the plain runtime":               {[]string{"agent-runtime", "csi"}, spec("share"), elsewhere},
		"with another driver's":                {[]string{"csi-s3"}, spec("share"), elsewhere},
		"by its claim":                         {[]string{"csi"}, ofClaim("work"), elsewhere},
		"with its own":                         {[]string{"csi-smb"}, spec("share"), ""},
		"with another one of its own":          {[]string{"agent-runtime", "csi-smb2"}, spec("share"), ""},
		"by its claim, with its own":           {[]string{"csi-smb"}, ofClaim("work"), ""},
		"what is built in goes with every one": {[]string{"csi-s3"}, spec("memory"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			req := inPools(c.spec)
			req.Template.Runtimes, req.Default = c.runtimes, volume.Allow
			req.Plugins = volume.Plugins{"csi-smb": smb, "csi-smb2": smb, "csi-s3": "s3"}
			req.Drivers = append(req.Drivers, req.Plugins.Drivers()...)
			_, err := volume.Resolve(t.Context(), r, req)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestPluginsAreToldByTheirRuntimes(t *testing.T) {
	var p volume.Plugins
	require.NoError(t, p.Set("csi-smb=smb.csi.k8s.io, csi-s3=s3"))
	require.NoError(t, p.Set("csi-s32=s3"), "by another flag")
	require.Equal(t, volume.Plugins{"csi-smb": "smb.csi.k8s.io", "csi-s3": "s3", "csi-s32": "s3"}, p)
	require.Equal(t, []string{"s3", "smb.csi.k8s.io"}, p.Drivers())
	require.Equal(t, "csi-s3=s3,csi-s32=s3,csi-smb=smb.csi.k8s.io", p.String())
	for text, want := range map[string]string{
		"smb.csi.k8s.io": "expected csi-NAME=DRIVER", "csi-smb=": "expected csi-NAME=DRIVER", "smb=smb.csi.k8s.io": "expected csi-NAME=DRIVER",
		"csi-a=a,csi-a=b": "given twice",
	} {
		require.ErrorContains(t, p.Set(text), want)
	}
}
