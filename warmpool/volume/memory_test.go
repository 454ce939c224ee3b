package volume_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

func ephemeral(name, container string, mebi int64, readOnly bool) mount.Spec {
	return mount.Spec{
		Volume: name, Target: "/" + name, Container: container, ReadOnly: readOnly, Ephemeral: mount.Ephemeral{Size: mebi << 20, Inodes: 99},
	}
}

func TestAnEphemeralVolumeNeedsNoPersistentVolume(t *testing.T) {
	r := &objects{}
	got, err := volume.Resolve(t.Context(), r, request(ephemeral("state", "sandbox", 64, false), ephemeral("state", "open", 64, true)))
	require.NoError(t, err)
	require.Zero(t, r.reads)
	require.Equal(t, []string{"", "open"}, []string{got[0].Container, got[1].Container}, "the first container has one name")
	require.Equal(t, got[0].VolumeHandle, got[1].VolumeHandle, "it is one volume")
	require.Equal(t, mount.DriverEphemeral, got[0].Driver)
	require.Equal(t, map[string]string{"size": "67108864", "inodes": "99"}, got[0].Attributes)
	require.Equal(t, mount.Owner{UID: 1000, GID: 1001}, got[0].Owner)

	r.volumes = map[string]*corev1.PersistentVolume{"state": tmpfs(func(*corev1.PersistentVolume) {})}
	require.Equal(t, got[0].VolumeHandle, volume.Handle(t.Context(), r, warmpool.Template{}, got[0].Spec), "whatever else has its name")
}

// The template's containers have 64 MiB ("sandbox"), no limit and no mounts ("side"), and 32 MiB ("open").
func TestEphemeralVolumesMustFitIntoTheMemoryOfWhoWritesToThem(t *testing.T) {
	for name, c := range map[string]struct {
		specs []mount.Spec
		want  []mount.Fault
	}{
		"just":                        {[]mount.Spec{ephemeral("a", "", 64, false)}, nil},
		"more than the limit":         {[]mount.Spec{ephemeral("a", "", 65, false)}, []mount.Fault{{Index: 0, Field: mount.FieldSize, Reason: `"sandbox" may write`}}},
		"more together":               {[]mount.Spec{ephemeral("a", "", 40, false), ephemeral("b", "sandbox", 40, false)}, []mount.Fault{{Index: 1, Field: mount.FieldSize, Reason: "adds up to 83886080 bytes and its memory is limited to 67108864"}}},
		"each in its container":       {[]mount.Spec{ephemeral("a", "", 64, false), ephemeral("b", "open", 32, false)}, nil},
		"one volume at two paths":     {[]mount.Spec{ephemeral("a", "", 64, false), {Volume: "a", Target: "/x", Ephemeral: mount.Ephemeral{Size: 64 << 20, Inodes: 99}}}, nil},
		"who only reads pays nothing": {[]mount.Spec{ephemeral("a", "", 64, false), ephemeral("a", "open", 64, true)}, nil},
		"every writer pays":           {[]mount.Spec{ephemeral("a", "", 64, false), ephemeral("a", "open", 64, false)}, []mount.Fault{{Index: 1, Field: mount.FieldSize, Reason: `"open"`}}},
		"no sum overflows":            {[]mount.Spec{ephemeral("a", "", 1<<42, false), ephemeral("b", "", 1<<42, false)}, []mount.Fault{{Index: 0, Field: mount.FieldSize}, {Index: 1, Field: mount.FieldSize}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := volume.Resolve(t.Context(), &objects{}, request(c.specs...))
			var faults mount.Faults
			require.True(t, err == nil || errors.As(err, &faults), "%v", err)
			require.Len(t, faults, len(c.want), "%v", faults)
			for i, want := range c.want {
				require.Equal(t, []any{want.Index, want.Field}, []any{faults[i].Index, faults[i].Field})
				require.Contains(t, faults[i].Reason, want.Reason)
			}
		})
	}
	boundless := request(ephemeral("a", "", 1, false))
	boundless.Template.Containers = []warmpool.Container{{Name: "sandbox", Mounts: true}}
	_, err := volume.Resolve(t.Context(), &objects{}, boundless)
	require.ErrorContains(t, err, "must set resources.limits.memory")
}
