package injector_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/sandgate-dev/sandgate/injector"
)

const manyCSI = `
csiSidecar:
- name: agent
  image: agent:1
  args: ["-containers=${CONTAINERS}"]
  volumeMounts: [{name: handover, mountPath: /handover}]
mainContainer:
  volumeMounts: [{name: handover, mountPath: /.sandgate/run, subPath: "${CONTAINER}", readOnly: true}]
  lifecycle: {postStart: {exec: {command: [starter, -detach]}}}
volume:
- {name: handover, emptyDir: {}}
`

// several is a pod of three containers, of which the annotation names some.
func several(annotation string) string {
	return `{metadata: {annotations: {sandgate.dev/mount-containers: "` + annotation + `"}}, spec: {containers: [
		{name: writer, image: i}, {name: reader, image: i, lifecycle: {postStart: {exec: {command: [own]}}}}, {name: third, image: i}]}}`
}

func TestContainersThatTakeMountsSeeADirectoryOfTheirOwn(t *testing.T) {
	c, err := injector.Parse(map[string]string{"csi": manyCSI, "agent-runtime": agentRuntime})
	require.NoError(t, err)
	order := []string{"csi", "agent-runtime"}
	out, err := injector.Inject(pod(t, several(" reader ")), c, order, values)
	require.NoError(t, err)
	writer, reader, other := out.Spec.Containers[0], out.Spec.Containers[1], out.Spec.Containers[2]
	seen := func(name string) []corev1.VolumeMount {
		return []corev1.VolumeMount{{Name: "handover", MountPath: "/.sandgate/run", SubPath: name, ReadOnly: true}}
	}
	require.Equal(t, seen("writer"), writer.VolumeMounts)
	require.Equal(t, seen("reader"), reader.VolumeMounts)
	require.Empty(t, other.VolumeMounts)
	require.Nil(t, other.Lifecycle)
	require.Equal(t, []string{"starter", "-detach", "--", "envd", "-key=a+/="}, writer.Lifecycle.PostStart.Exec.Command)
	require.Equal(t, []string{"starter", "-detach", "--", "own"}, reader.Lifecycle.PostStart.Exec.Command, "and not the daemon of the first one")
	require.Equal(t, []string{"-containers=writer,reader"}, out.Spec.InitContainers[1].Args)

	again, err := injector.Inject(out, c, order, values)
	require.NoError(t, err)
	require.Equal(t, out, again)

	all, err := injector.Inject(pod(t, several("*")), c, order, values)
	require.NoError(t, err)
	require.Equal(t, []string{"-containers=writer,reader,third"}, all.Spec.InitContainers[1].Args)
}

func TestNoContainerGetsAtAnothersHandOver(t *testing.T) {
	c, err := injector.Parse(map[string]string{"csi": manyCSI})
	require.NoError(t, err)
	for name, mount := range map[string]string{
		"all of them":              `{name: handover, mountPath: /x}`,
		"another's":                `{name: handover, mountPath: /.sandgate/run, subPath: writer, readOnly: true}`,
		"its own, writable":        `{name: handover, mountPath: /.sandgate/run, subPath: reader}`,
		"one, without being named": `{name: handover, mountPath: /.sandgate/run, subPath: quiet, readOnly: true}`,
	} {
		t.Run(name, func(t *testing.T) {
			in := pod(t, `{metadata: {annotations: {sandgate.dev/mount-containers: reader}}, spec: {containers: [
				{name: writer}, {name: reader, volumeMounts: [`+mount+`]}, {name: quiet, volumeMounts: [`+mount+`]}]}}`)
			_, err := injector.Inject(in, c, []string{"csi"}, values)
			require.ErrorContains(t, err, `"handover" is a volume of the injected parts`)
		})
	}
}

func TestContainersThatCannotTakeMountsAreRefused(t *testing.T) {
	old := config(t) // its parts know one container
	many, err := injector.Parse(map[string]string{"csi": manyCSI, "extra": `labels: {x: "v"}`})
	require.NoError(t, err)
	for name, c := range map[string]struct {
		config     injector.Config
		runtimes   []string
		annotation string
		want       string
	}{
		"one that is not there":           {many, []string{"csi"}, "reader,readre", `"readre" is no container of the template`},
		"where nothing mounts":            {many, []string{"extra"}, "reader", "none of the runtimes mounts any"},
		"where they cannot be told apart": {old, []string{"csi"}, "reader", "serves the first container only"},
		"where all cannot be told apart":  {old, []string{"csi"}, "*", "serves the first container only"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := injector.Inject(pod(t, several(c.annotation)), c.config, c.runtimes, values)
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, "metadata.annotations[sandgate.dev/mount-containers]")
		})
	}
	_, err = injector.Inject(pod(t, several("writer")), old, []string{"csi"}, values)
	require.NoError(t, err, "the first one takes them anyway")
}
