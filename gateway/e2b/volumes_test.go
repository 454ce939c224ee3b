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

// What passes the reading of a csi-volume-config is what a strict reader of the same text sees, and can be parsed again.
func FuzzVolumeConfig(f *testing.F) {
	for _, seed := range []string{
		`[{"pvName":"pv-nas-fast","mountPath":"/data-nas","subPath":"data-subPath","readOnly":true},{"pvName":"pv-oss","mountPath":"/data-oss","mountID":"m1"}]`,
		`[]`, ``, `null`, `[null]`, `[{}]`, `{"pvName":"x"}`, `[{"pvName":"a","mountPath":"/x"}] trailing`,
		`[{"pvName":"a","pvName":"b","mountPath":"/x"}]`, `[{"PVNAME":"a","mountPath":"/x"}]`, `[{"pvName":"a","mountPath":"/../x"}]`,
		`[{"pvName":"a","mountPath":"\u002fetc"}]`, `[{"pvName":"a","mountPath":"/a\u0000b"}]`, `[{"pvName":"a","mountPath":"/x","subPath":"${SANDBOX_ID}"}]`,
		`[{"pvName":"a","mountPath":"/x","readOnly":1e0}]`, `[[[[[[`, "[{\"pvName\":\"\xff\"}]", `[{"pv\u004eame":"a","mountPath":"/x"}]`, `[{"pvName":"a","mountPath":"/\ud800"}]`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		var fs faults
		wishes := configMounts(raw, 16, &fs)
		specs, where := sound(wishes, &fs)
		require.LessOrEqual(t, len(specs), 16)
		require.Len(t, where, len(specs))
		if err := fs.err(); err != nil {
			require.True(t, utf8.ValidString(err.Error()), "a message that is no text: %q", err)
			return
		}
		var items []struct {
			PVName, MountPath, SubPath string
			ReadOnly                   bool
		}
		require.NoError(t, json.Unmarshal([]byte(raw), &items), "accepted, but it is not JSON of that shape")
		require.Len(t, specs, len(items))
		for i, s := range specs {
			require.Equal(t, items[i].PVName, s.Volume)
			require.Equal(t, items[i].ReadOnly, s.ReadOnly)
			require.Equal(t, strings.TrimRight(items[i].MountPath, "/"), s.Target)
			again, err := mount.Parse(s)
			require.NoError(t, err)
			require.Equal(t, s, again)
		}
	})
}

// However the metadata's keys are combined, there is either a fault or exactly the mounts that one of the two ways asks for.
func FuzzMetadata(f *testing.F) {
	f.Add("oss-pv-sandbox-system", "/data-oss", "data-subPath", "", byte(7))
	f.Add("pv", "/data", "", `[{"pvName":"pv-nas-fast","mountPath":"/data-nas"}]`, byte(15))
	f.Add("", "", "a", "", byte(4))
	f.Add("pv", "/data/..", "..", "[", byte(7))
	f.Fuzz(func(t *testing.T, volume, target, sub, config string, given byte) {
		metadata := map[string]string{}
		for i, kv := range [][2]string{
			{v1alpha1.MetadataVolumeName, volume}, {v1alpha1.MetadataMountPoint, target}, {v1alpha1.MetadataSubPath, sub}, {v1alpha1.MetadataVolumeConfig, config},
		} {
			if given&(1<<i) != 0 {
				metadata[kv[0]] = kv[1]
			}
		}
		var fs faults
		wishes, from, unused := metadataMounts(metadata, 16, &fs)
		specs, _ := sound(wishes, &fs)
		if len(fs) > 0 {
			return
		}
		switch {
		case given&8 != 0:
			require.Equal(t, manyMounts, from)
			require.Equal(t, given&7 != 0, unused != "")
		case given&7 != 0:
			require.Equal(t, singleVolume, from)
			require.Len(t, specs, 1)
			require.Equal(t, volume, specs[0].Volume)
		default:
			require.Empty(t, specs)
		}
		for _, s := range specs {
			require.True(t, strings.HasPrefix(s.Target, "/") && len(s.Target) > 1 && !strings.Contains(s.Target, "/../"))
		}
	})
}

// A place names what the caller wrote, and nothing that could break a log line or a message out of its place.
func TestPlacesOfHostileNamesAreQuotedAndShort(t *testing.T) {
	o := object{place: "metadata"}
	require.Equal(t, "metadata.plain-name_1", o.at("plain-name_1"))
	require.Equal(t, `metadata["a\nb"]`, o.at("a\nb"))
	require.Less(t, len(o.at(strings.Repeat("é", 1000))), 400)
	require.True(t, utf8.ValidString(o.at(strings.Repeat("é", 1000))))
}

func TestAMessageIsBoundedHoweverManyFaults(t *testing.T) {
	var fs faults
	for range 1000 {
		fs.add("x", "is wrong")
	}
	require.ErrorContains(t, fs.err(), "and 936 more")
	require.NoError(t, faults(nil).err())
}
