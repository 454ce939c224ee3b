package manifest

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	kjson "sigs.k8s.io/json"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

const (
	maxFile  = 1 << 20
	maxFiles = 500
)

// key names an object of a namespaced kind.
type key struct{ namespace, name string }

// snapshot is all that the directory says, at one moment.
type snapshot struct {
	sets    map[string]v1alpha1.SandboxSet
	volumes map[string]*corev1.PersistentVolume
	claims  map[key]*corev1.PersistentVolumeClaim
	secrets map[key]*corev1.Secret
	ignored []string // what was left out on purpose, for the log: manifests and fields
}

// file is one manifest file as it was read.
type file struct {
	name string
	raw  []byte
}

// files reads the directory's manifests in the order of their names. Only names that end in .yaml, .yml or .json count, and
// no hidden ones, so that an editor's leftovers do not.
func files(dir string) ([]file, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []file
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if strings.HasPrefix(e.Name(), ".") || !slices.Contains([]string{".yaml", ".yml", ".json"}, ext) {
			continue
		}
		if len(out) == maxFiles {
			return nil, fmt.Errorf("more than %d manifest files in %s", maxFiles, dir)
		}
		raw, err := content(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		out = append(out, file{e.Name(), raw})
	}
	return out, nil
}

func content(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(raw) > maxFile {
		err = fmt.Errorf("%s: larger than %d bytes", path, maxFile)
	}
	return raw, err
}

// load makes a snapshot of files, or says everything that is wrong with them.
func load(all []file) (*snapshot, error) {
	l := &loader{
		snap: &snapshot{
			sets:    map[string]v1alpha1.SandboxSet{},
			volumes: map[string]*corev1.PersistentVolume{},
			claims:  map[key]*corev1.PersistentVolumeClaim{},
			secrets: map[key]*corev1.Secret{},
		},
		places: map[string]string{},
	}
	for _, f := range all {
		l.file = f.name
		if len(f.raw) == 0 { // as a file is for a moment while it is saved
			l.faults = append(l.faults, Fault{File: f.name, Reason: "is empty; delete it if that is meant"})
			continue
		}
		docs, broken := parse(f.raw)
		if broken != nil {
			l.faults = append(l.faults, Fault{File: f.name, Line: broken.line, Field: broken.field, Reason: broken.reason})
			continue
		}
		for _, d := range docs {
			l.document(d)
		}
	}
	if err := l.faults.err(); err != nil {
		return nil, err
	}
	l.snap.bind()
	return l.snap, nil
}

// bind makes a volume that a claim names that claim's, as a cluster would: it is somebody's then, and no longer for everybody
// to mount.
func (s *snapshot) bind() {
	for _, pvc := range s.claims {
		pv := s.volumes[pvc.Spec.VolumeName]
		if pv != nil && pv.Spec.ClaimRef == nil {
			pv.Spec.ClaimRef = &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: pvc.Namespace, Name: pvc.Name}
		}
	}
}

// loader gathers a snapshot from documents.
type loader struct {
	snap   *snapshot
	file   string
	places map[string]string // what is taken (an object, a template name) -> where it was first seen
	faults Faults
}

// kind is how one kind of object is read.
type kind struct {
	apiVersion string
	new        func() any
	add        func(l *loader, d *document, object any)
	elsewhere  []elsewhere
}

var kinds = map[string]kind{
	"SandboxSet":            {v1alpha1.Group + "/" + v1alpha1.Version, func() any { return &v1alpha1.SandboxSet{} }, addSet, clusterFields},
	"PersistentVolume":      {"v1", func() any { return &corev1.PersistentVolume{} }, addVolume, nil},
	"PersistentVolumeClaim": {"v1", func() any { return &corev1.PersistentVolumeClaim{} }, addClaim, nil},
	"Secret":                {"v1", func() any { return &corev1.Secret{} }, addSecret, nil},
}

// ignored kinds often stand beside ours in manifests for a cluster and mean nothing on one machine.
var ignored = []string{"ConfigMap", "Namespace"}

func (l *loader) document(d *document) {
	root, ok := d.value.(map[string]any)
	if !ok {
		l.fault(d, "", "", "want a mapping with apiVersion, kind and metadata")
		return
	}
	name, _ := root["kind"].(string)
	object := name + "/" + nameOf(root)
	if slices.Contains(ignored, name) {
		l.snap.ignored = append(l.snap.ignored, fmt.Sprintf("%s: %s", l.file, object))
		return
	}
	k, ok := kinds[name]
	if !ok {
		l.report(d, "")
		l.fault(d, "", "kind", "want one of %s", strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
		return
	}
	if root["apiVersion"] != k.apiVersion {
		d.problem(d.at("apiVersion"), "apiVersion", "want %s", k.apiVersion)
	}
	l.setAside(d, root, object, k.elsewhere)
	into := k.new()
	d.conform(d.value, reflect.TypeOf(into), "")
	if len(d.problems) == 0 {
		d.decode(into)
	}
	if len(d.problems) == 0 {
		k.add(l, d, into)
	}
	l.report(d, object)
}

func (l *loader) report(d *document, object string) {
	for _, p := range d.problems {
		l.faults = append(l.faults, Fault{l.file, p.line, object, p.field, p.reason})
	}
}

// decode fills in the object; conform has found what people get wrong, so this is the second pair of eyes.
func (d *document) decode(into any) {
	raw, err := json.Marshal(d.value)
	if err == nil {
		var strict []error
		strict, err = kjson.UnmarshalStrict(raw, into)
		if err == nil && len(strict) > 0 {
			err = strict[0]
		}
	}
	switch {
	case err == nil:
	case d.quiet:
		d.problem(d.at(""), "", "cannot be read (details are withheld: it is a Secret)")
	default:
		d.problem(d.at(""), "", "cannot be read: %v", err)
	}
}

func (l *loader) fault(d *document, object, field, format string, args ...any) {
	l.faults = append(l.faults, Fault{l.file, d.at(field), object, field, fmt.Sprintf(format, args...)})
}

func nameOf(root map[string]any) string {
	meta, _ := root["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	return shorten(name)
}

// take notes that what is spoken for, and says where it was taken before.
func (l *loader) take(d *document, field, what string) bool {
	here := fmt.Sprintf("%s:%d", l.file, d.at(field))
	if there, taken := l.places[what]; taken {
		d.problem(d.at(field), field, "%s is already given at %s", what, there)
		return false
	}
	l.places[what] = here
	return true
}
