package e2b

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

func ephemeralAsked(raw string) ([]mount.Spec, faults) {
	var fs faults
	specs, _ := sound(ephemeralMounts(map[string]string{v1alpha1.MetadataEphemeral: raw}, 16, &fs), &fs)
	return specs, fs
}

func TestEphemeralVolumesAreReadWithAllOfTheirMounts(t *testing.T) {
	specs, fs := ephemeralAsked(`[
		{"name":"runtime-state","size":"128Mi","inodes":4096,"mounts":[
			{"path":"/srv/runtime/"},{"container":"reader","path":"/srv/runtime","readOnly":true,"mountID":"heartbeat","allowNonEmpty":true}]},
		{"name":"b","size":"1e6","mounts":[{"path":"/b","readOnly":false}]}]`)
	require.Empty(t, fs)
	state := mount.Ephemeral{Size: 128 << 20, Inodes: 4096}
	want := []mount.Spec{
		{Volume: "runtime-state", Target: "/srv/runtime", Ephemeral: state},
		{ID: "heartbeat", Volume: "runtime-state", Target: "/srv/runtime", Container: "reader", ReadOnly: true, AllowNonEmpty: true, Ephemeral: state},
		{Volume: "b", Target: "/b", Ephemeral: mount.Ephemeral{Size: 1e6}},
	}
	for i := range want {
		if want[i].ID == "" {
			want[i].ID = want[i].DerivedID()
		}
	}
	require.Equal(t, want, specs)
}

func TestEveryFaultOfAnEphemeralVolumeIsToldOnceWithItsPlace(t *testing.T) {
	for name, c := range map[string]struct {
		raw  string
		want []string
	}{
		"no JSON":            {`[`, []string{"ephemeral-volumes: is not valid JSON"}},
		"no array":           {`{}`, []string{"ephemeral-volumes: must be a JSON array"}},
		"no object":          {`[1]`, []string{"ephemeral-volumes[0]: must be a JSON object"}},
		"nothing at all":     {`[{}]`, []string{"[0].name: is required", "[0].size: is required", "[0].mounts: is required"}},
		"empty texts":        {`[{"name":"","size":"","mounts":[{"path":""}]}]`, []string{"[0].name: is required", "[0].size: must be a quantity", "[0].mounts[0].path: is required"}},
		"of other types":     {`[{"name":1,"size":2,"inodes":"3","mounts":{}}]`, []string{"[0].name: must be a string", "[0].size: must be a string", "[0].inodes: must be a whole number", "[0].mounts: must be a JSON array"}},
		"unknown fields":     {`[{"name":"a","Size":"1Mi","size":"1Mi","medium":"x","mounts":[{"path":"/a","mountPath":"/a"}]}]`, []string{"[0].Size: is not a field", "[0].medium: is not a field", "[0].mounts[0].mountPath: is not a field"}},
		"a field twice":      {`[{"name":"a","size":"1Mi","size":"2Mi","mounts":[{"path":"/a"}]}]`, []string{"[0].size: is given twice"}},
		"a name of none":     {`[{"name":"A_b","size":"1Mi","mounts":[{"path":"/a"},{"path":"/b"}]}]`, []string{"[0].name: must be at most 63 lower-case letters"}},
		"a name twice":       {`[{"name":"a","size":"1Mi","mounts":[{"path":"/a"}]},{"name":"a","size":"1Mi","mounts":[{"path":"/b"}]}]`, []string{"[1].name: is the name of another one too"}},
		"no limit":           {`[{"name":"a","size":"0","mounts":[{"path":"/a"}]}]`, []string{"[0].size: must be a quantity"}},
		"a negative size":    {`[{"name":"a","size":"-1Mi","mounts":[{"path":"/a"}]}]`, []string{"[0].size: must be a quantity"}},
		"less than a page":   {`[{"name":"a","size":"4095","mounts":[{"path":"/a"}]}]`, []string{"[0].size: must be a quantity"}},
		"inodes without end": {`[{"name":"a","size":"1Mi","inodes":0,"mounts":[{"path":"/a"}]}]`, []string{"[0].inodes: must not be 0"}},
		"too many inodes":    {`[{"name":"a","size":"1Mi","inodes":1048577,"mounts":[{"path":"/a"}]}]`, []string{"[0].inodes: must be between 2 and 1048576"}},
		"nowhere":            {`[{"name":"a","size":"1Mi","mounts":[]}]`, []string{"[0].mounts: is required"}},
		"for readers only":   {`[{"name":"a","size":"1Mi","mounts":[{"path":"/a","readOnly":true}]}]`, []string{"[0].mounts: must have one that is not readOnly"}},
		"at /tmp":            {`[{"name":"a","size":"1Mi","mounts":[{"path":"/tmp"}]}]`, []string{"[0].mounts[0].path: must not be /tmp"}},
		"below /tmp":         {`[{"name":"a","size":"1Mi","mounts":[{"path":"/tmp/a"}]}]`, []string{"[0].mounts[0].path: must not be below /tmp"}},
		"at a reserved path": {`[{"name":"a","size":"1Mi","mounts":[{"path":"/etc"}]}]`, []string{"[0].mounts[0].path: must not be /etc"}},
		"an empty container": {`[{"name":"a","size":"1Mi","mounts":[{"path":"/a","container":""}]}]`, []string{"[0].mounts[0].container: must not be empty"}},
		"of several volumes": {`[{"name":"a","size":"x","mounts":[{"path":"a"}]},{"name":"b","size":"1Mi","mounts":[{"path":"/b","readOnly":1}]}]`, []string{"[0].size: ", "[0].mounts[0].path: must be absolute", "[1].mounts[0].readOnly: must be true or false"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, fs := ephemeralAsked(c.raw)
			err := fs.err()
			require.Error(t, err)
			for _, want := range c.want {
				require.Contains(t, err.Error(), want)
			}
			require.Len(t, fs, len(c.want), "%v", fs)
		})
	}
	var fs faults
	ephemeralMounts(map[string]string{"Sandgate.dev/ephemeral-volume": "[]"}, 16, &fs)
	require.ErrorContains(t, fs.err(), "is not a key that this gateway knows")
}

func FuzzEphemeralVolumes(f *testing.F) {
	for _, seed := range []string{
		`[{"name":"a","size":"64Mi","inodes":16,"mounts":[{"path":"/a"},{"path":"/b","container":"c","readOnly":true}]}]`,
		`[]`, ``, `null`, `[null]`, `[{}]`, `[{"name":"a","size":"1e999","mounts":[{}]}]`, `[{"name":"","size":"1Mi","mounts":[{"path":"/a"}]}]`,
		`[{"name":"a","size":"1Mi","inodes":1e3,"mounts":[{"path":"/tmp/x"}]}]`, `[{"name":"a","size":"1Mi","mounts":[null,{"path":"/x","readOnly":true}]}]`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		specs, fs := ephemeralAsked(raw)
		if err := fs.err(); err != nil {
			require.True(t, utf8.ValidString(err.Error()), "a message that is no text: %q", err)
			return
		}
		var items []struct {
			Name, Size string
			Mounts     []struct{ Path string }
		}
		require.NoError(t, json.Unmarshal([]byte(raw), &items), "accepted, but it is not JSON of that shape")
		n := 0
		for _, item := range items {
			for range item.Mounts {
				require.Equal(t, item.Name, specs[n].Volume)
				require.GreaterOrEqual(t, specs[n].Ephemeral.Size, int64(4096))
				require.False(t, specs[n].Target == "/tmp" || strings.HasPrefix(specs[n].Target, "/tmp/"))
				again, err := mount.Parse(specs[n])
				require.NoError(t, err)
				require.Equal(t, specs[n], again)
				n++
			}
		}
		require.Len(t, specs, n, "each mount is one, and none is dropped")
	})
}
