package e2b

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// The metadata keys by the names that messages call them.
const (
	singleVolume  = "csi-volume-name"
	singleClaim   = "csi-pvc-name"
	singleTarget  = "csi-mount-point"
	singleSubPath = "csi-subpath"
	manyMounts    = "csi-volume-config"
	csiPrefix     = "e2b.agents.kruise.io/csi-"
)

// maxConfig bounds the text of a csi-volume-config.
const maxConfig = 128 << 10

// metadataMounts reads the mounts that a request's metadata asks for: those of the array, or, without one, the single mount.
// from and unused name the keys for the log.
func metadataMounts(metadata map[string]string, most int, fs *faults) (wishes []wish, from, unused string) {
	known := append(slices.Clone(singleKeys), v1alpha1.MetadataVolumeConfig)
	for _, key := range slices.Sorted(maps.Keys(metadata)) {
		if strings.HasPrefix(strings.ToLower(key), csiPrefix) && !slices.Contains(known, key) {
			fs.add(object{place: "metadata"}.at(key), "is not a key that this gateway knows; known are %s", strings.Join(known, ", "))
		}
	}
	single := singleGiven(metadata)
	config, many := metadata[v1alpha1.MetadataVolumeConfig]
	switch {
	case many && single:
		return configMounts(config, most, fs), manyMounts, singleVolume
	case many:
		return configMounts(config, most, fs), manyMounts, ""
	case single:
		return singleMount(metadata, fs), singleVolume, ""
	}
	return nil, "", ""
}

// singleKeys are those of one mount.
var singleKeys = []string{v1alpha1.MetadataVolumeName, v1alpha1.MetadataClaimName, v1alpha1.MetadataMountPoint, v1alpha1.MetadataSubPath}

func singleGiven(metadata map[string]string) bool {
	for _, key := range singleKeys {
		if _, ok := metadata[key]; ok {
			return true
		}
	}
	return false
}

// singleMount reads the three keys of one mount. A volume and a mount point come together or not at all.
func singleMount(metadata map[string]string, fs *faults) []wish {
	var missing []string
	volume, ok := metadata[v1alpha1.MetadataVolumeName]
	claim, byClaim := metadata[v1alpha1.MetadataClaimName]
	kind, key, both := mount.Kind(""), singleVolume, ok && byClaim
	switch {
	case both:
		fs.add(singleVolume, "names a volume beside %s; give one of them", singleClaim)
	case byClaim:
		volume, kind, key = claim, mount.KindClaim, singleClaim
	case !ok:
		missing = append(missing, v1alpha1.MetadataVolumeName)
	}
	target, ok := metadata[v1alpha1.MetadataMountPoint]
	if !ok {
		missing = append(missing, v1alpha1.MetadataMountPoint)
	}
	sub := metadata[v1alpha1.MetadataSubPath]
	w := wish{
		spec: mount.Spec{Kind: kind, Volume: volume, Target: target, SubPath: sub},
		places: places{whole: key, fields: map[mount.Field]string{
			mount.FieldVolume: key, mount.FieldTarget: singleTarget, mount.FieldSubPath: singleSubPath,
		}},
		faulty: map[mount.Field]bool{},
	}
	if len(missing) > 0 {
		given := singleSubPath
		switch {
		case volume != "":
			given = key
		case target != "":
			given = singleTarget
		}
		fs.add(given, "needs metadata %s too", strings.Join(missing, " and "))
		w.faulty[mount.FieldVolume] = true
		w.faulty[mount.FieldTarget] = slices.Contains(missing, v1alpha1.MetadataMountPoint)
	}
	if both {
		w.faulty[mount.FieldVolume] = true
	}
	return []wish{w}
}

// configMounts reads a csi-volume-config.
func configMounts(raw string, most int, fs *faults) []wish {
	if len(raw) > maxConfig {
		fs.add(manyMounts, "is longer than %d bytes", maxConfig)
		return nil
	}
	v, reason := parseJSON([]byte(raw))
	if reason != "" {
		fs.add(manyMounts, "%s", reason)
		return nil
	}
	var out []wish
	for i, item := range elements(manyMounts, v, most, fs) {
		if w, ok := configMount(fmt.Sprintf("%s[%d]", manyMounts, i), item, fs); ok {
			out = append(out, w)
		}
	}
	return out
}

func configMount(place string, item gjson.Result, fs *faults) (wish, bool) {
	before := len(*fs)
	o, ok := readObject(place, item, fs)
	if !ok {
		return wish{}, false
	}
	return wishOf(o, before), true
}

// take reads a string field of a mount into the spec.
func (w *wish) take(o object, name string, field mount.Field, into *string) {
	w.places.fields[field] = o.at(name)
	before := len(*o.faults)
	*into, _ = o.text(name)
	if len(*o.faults) > before {
		w.faulty[field] = true
	}
}

// bodyMounts reads E2B's own volumeMounts.
func bodyMounts(o object, most int) []wish {
	var out []wish
	for i, item := range o.elements("volumeMounts", most) {
		place := fmt.Sprintf("volumeMounts[%d]", i)
		before := len(*o.faults)
		inner, ok := readObject(place, item, o.faults)
		if !ok {
			continue
		}
		inner.only(false, "name", "path")
		w := wish{places: places{whole: place, fields: map[mount.Field]string{}}, faulty: map[mount.Field]bool{}}
		w.take(inner, "name", mount.FieldVolume, &w.spec.Volume)
		w.take(inner, "path", mount.FieldTarget, &w.spec.Target)
		if len(*o.faults) > before && len(w.faulty) == 0 {
			w.faulty[mount.FieldReadOnly] = true
		}
		out = append(out, w)
	}
	return out
}

// asFaults are the faults in an error, none when it has none.
func asFaults(err error) mount.Faults {
	var out mount.Faults
	_ = errors.As(err, &out)
	return out
}

// inPlace is the error of a create with its faults in the caller's own places. Those of a sandbox that was already being made
// are of one mount, and do not say which by their index: their message does.
func inPlace(err error, where []places) error {
	var e *warmpool.Error
	refused := asFaults(err)
	if !errors.As(err, &e) || e.Code != warmpool.Invalid || e.Final || len(refused) == 0 {
		return err
	}
	var fs faults
	reword(refused, where, &fs)
	return fs.err()
}

// reword puts a refused claim's faults into the caller's own places.
func reword(all mount.Faults, where []places, fs *faults) {
	for _, f := range all {
		if f.Index < 0 || f.Index >= len(where) {
			fs.add("", "%s", f.Reason)
			continue
		}
		fs.add(where[f.Index].of(f.Field), "%s", f.Reason)
	}
}
