package injector_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/sandgate-dev/sandgate/injector"
)

func given(path string) injector.Values {
	v := values
	v.Volumes = []injector.Volume{{
		Volume:    corev1.Volume{Name: "sandgate-pool-work", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}}},
		MountPath: "/pool/work", ReadOnly: true,
	}}
	return v
}

func TestVolumesAreTheAgentsAlone(t *testing.T) {
	out, err := injector.Inject(pod(t, plain), config(t), []string{"csi", "agent-runtime"}, given("/srv/work"))
	require.NoError(t, err)
	var agents int
	for _, c := range append(out.Spec.InitContainers, out.Spec.Containers...) {
		for _, m := range c.VolumeMounts {
			if m.Name == "sandgate-pool-work" {
				require.Equal(t, "agent", c.Name)
				require.Equal(t, corev1.VolumeMount{Name: "sandgate-pool-work", MountPath: "/pool/work", ReadOnly: true}, m)
				agents++
			}
		}
	}
	require.Equal(t, 1, agents)
	again, err := injector.Inject(out, config(t), []string{"csi", "agent-runtime"}, given("/srv/work"))
	require.NoError(t, err)
	require.Equal(t, out, again)
	plainly, err := injector.Inject(pod(t, plain), config(t), []string{"csi"}, values)
	require.NoError(t, err)
	require.NotContains(t, plainly.String(), "sandgate-pool-work", "the configuration is left alone")
}

func TestVolumesAreRefusedThatAreNotTheAgentsAlone(t *testing.T) {
	_, err := injector.Inject(pod(t, plain), config(t), []string{"csi"}, given("/var/lib/kubelet/pods"))
	require.ErrorContains(t, err, "must not be the node's own")
	taken := pod(t, `{metadata: {name: p}, spec: {containers: [{name: sandbox, image: i, volumeMounts: [{name: sandgate-pool-work, mountPath: /x}]}]}}`)
	_, err = injector.Inject(taken, config(t), []string{"csi"}, given("/srv/work"))
	require.ErrorContains(t, err, "is a volume of the injected parts")
}
