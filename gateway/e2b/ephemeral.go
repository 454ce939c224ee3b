package e2b

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// ephemeralVolumes is the name by which messages call the metadata key.
const ephemeralVolumes = "ephemeral-volumes"

// maxEphemeral is how many ephemeral volumes a request may ask for.
const maxEphemeral = 16

// ephemeralMounts reads the volumes in the sandbox's own memory that a request's metadata asks for: a JSON array of {name, size, inodes,
// mounts: [{container, path, readOnly, allowNonEmpty, mountID}]}.
func ephemeralMounts(metadata map[string]string, most int, fs *faults) []wish {
	prefix := strings.ToLower(v1alpha1.MetadataEphemeral)
	for _, key := range slices.Sorted(maps.Keys(metadata)) {
		if key != v1alpha1.MetadataEphemeral && strings.HasPrefix(strings.ToLower(key), strings.TrimSuffix(prefix, "-volumes")) {
			fs.add(object{place: "metadata"}.at(key), "is not a key that this gateway knows; %s is", v1alpha1.MetadataEphemeral)
		}
	}
	raw, ok := metadata[v1alpha1.MetadataEphemeral]
	if !ok {
		return nil
	}
	if len(raw) > maxConfig {
		fs.add(ephemeralVolumes, "is longer than %d bytes", maxConfig)
		return nil
	}
	v, reason := parseJSON([]byte(raw))
	if reason != "" {
		fs.add(ephemeralVolumes, "%s", reason)
		return nil
	}
	var out []wish
	seen := map[string]bool{}
	for i, item := range elements(ephemeralVolumes, v, maxEphemeral, fs) {
		place := fmt.Sprintf("%s[%d]", ephemeralVolumes, i)
		o, ok := readObject(place, item, fs)
		if !ok {
			continue
		}
		if name := o.fields["name"].Str; name != "" {
			if seen[name] {
				fs.add(o.at("name"), "is the name of another one too; give each volume once, with all of its mounts")
			}
			seen[name] = true
		}
		out = append(out, ephemeralVolume(o, most, fs)...)
	}
	return out
}

// ephemeralVolume reads one volume. What is wrong with the volume itself is told once, and not for each of its mounts.
func ephemeralVolume(o object, most int, fs *faults) []wish {
	o.only(false, "name", "size", "inodes", "mounts")
	name, named := o.text("name")
	_, nameGiven := o.fields["name"]
	size, sized := o.text("size")
	inodes, limited := o.whole("inodes")
	spec := mount.Spec{Volume: name, Ephemeral: mount.Ephemeral{Size: bytesOf(size), Inodes: inodes}}
	if _, given := o.fields["size"]; !given {
		fs.add(o.at("size"), "is required: a quantity such as 64Mi")
	}
	for _, f := range asFaults(probe(spec)) {
		switch {
		case f.Field == mount.FieldVolume && (named || !nameGiven): // else it is no string, which is told
			fs.add(o.at("name"), "%s", f.Reason)
		case f.Field == mount.FieldSize && sized:
			fs.add(o.at("size"), "must be a quantity such as 64Mi: a whole number of bytes, at least 4Ki")
		case f.Field == mount.FieldInodes && limited:
			fs.add(o.at("inodes"), "%s", f.Reason)
		}
	}
	if v, given := o.fields["inodes"]; given && limited && v.Raw == "0" {
		fs.add(o.at("inodes"), "must not be 0; leave it out for the default")
	}
	items := o.elements("mounts", most)
	if _, given := o.fields["mounts"]; !given || o.fields["mounts"].IsArray() && len(items) == 0 {
		fs.add(o.at("mounts"), "is required: where the volume is mounted")
	}
	sound := asFaults(probe(spec)) == nil
	var out []wish
	writable := len(items) == 0
	for i, item := range items {
		before := len(*fs)
		m, ok := readObject(fmt.Sprintf("%s[%d]", o.at("mounts"), i), item, fs)
		if !ok {
			writable = true
			continue
		}
		w := ephemeralMount(o, m, spec, before)
		if !sound { // its place is looked at, and its volume not again
			w.spec.Volume, w.spec.Ephemeral, w.faulty[mount.FieldVolume] = "unknown", mount.Ephemeral{Size: 4096}, true
		}
		writable = writable || !w.spec.ReadOnly
		out = append(out, w)
	}
	if !writable {
		fs.add(o.at("mounts"), "must have one that is not readOnly: nobody could write to the volume")
	}
	return out
}

func ephemeralMount(volume, m object, spec mount.Spec, before int) wish {
	m.only(false, "container", "path", "readOnly", "allowNonEmpty", "mountID")
	w := wish{
		spec: spec, faulty: map[mount.Field]bool{},
		places: places{whole: m.place, fields: map[mount.Field]string{
			mount.FieldVolume: volume.at("name"), mount.FieldSize: volume.at("size"), mount.FieldInodes: volume.at("inodes"),
		}},
	}
	w.take(m, "path", mount.FieldTarget, &w.spec.Target)
	w.take(m, "container", mount.FieldContainer, &w.spec.Container)
	w.take(m, "mountID", mount.FieldID, &w.spec.ID)
	w.must(m, "container", mount.FieldContainer)
	w.must(m, "mountID", mount.FieldID)
	w.spec.ReadOnly, _ = m.truth("readOnly")
	w.spec.AllowNonEmpty, _ = m.truth("allowNonEmpty")
	if len(*m.faults) > before && len(w.faulty) == 0 {
		w.faulty[mount.FieldReadOnly] = true // of a field that no other rule looks at
	}
	return w
}

// probe says what is wrong with a volume, wherever it is mounted.
func probe(spec mount.Spec) error {
	spec.Target = "/data"
	if !spec.IsEphemeral() {
		spec.Ephemeral.Size = -1
	}
	_, err := mount.Parse(spec)
	return err
}

// bytesOf is a quantity, -1 for what is none.
func bytesOf(text string) int64 {
	n, err := mount.Quantity(text)
	if err != nil || n <= 0 {
		return -1
	}
	return n
}
