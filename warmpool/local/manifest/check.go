package manifest

import (
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/template"
)

// name checks an object's name and takes it.
func (l *loader) name(d *document, meta *metav1.ObjectMeta, what string) bool {
	if reasons := validation.IsDNS1123Subdomain(meta.Name); len(reasons) > 0 {
		d.problem(d.at("metadata.name"), "metadata.name", "want lowercase letters, digits, - and . (at most 253), beginning and ending with a letter or digit")
		return false
	}
	return l.take(d, "metadata.name", what+" "+path.Join(meta.Namespace, meta.Name))
}

// namespaced is name for kinds that live in a namespace, "default" where none is given.
func (l *loader) namespaced(d *document, meta *metav1.ObjectMeta, what string) bool {
	if meta.Namespace == "" {
		meta.Namespace = metav1.NamespaceDefault
	}
	if len(validation.IsDNS1123Label(meta.Namespace)) > 0 {
		d.problem(d.at("metadata.namespace"), "metadata.namespace", "want lowercase letters, digits and - (at most 63)")
		return false
	}
	return l.name(d, meta, what)
}

func addSet(l *loader, d *document, object any) {
	set := object.(*v1alpha1.SandboxSet)
	ok := l.namespaced(d, &set.ObjectMeta, "SandboxSet")
	for _, f := range checkSet(set) {
		d.problem(d.at(f.field), f.field, "%s", f.reason)
		ok = false
	}
	// Names and aliases are one name space: they are what a create request says, without a namespace.
	ok = ok && l.take(d, "metadata.name", "template "+set.Name)
	for _, alias := range template.Aliases(set) {
		ok = ok && l.take(d, aliasesField, "template "+alias)
	}
	if ok {
		l.snap.sets[set.Name] = *set
	}
}

// The values of the network annotation.
const (
	NetworkNone  = "none"  // loopback only; the default
	NetworkPasta = "pasta" // user-mode egress
)

const (
	aliasesField = "metadata.annotations." + v1alpha1.AnnotationAliases
	networkField = "metadata.annotations." + v1alpha1.AnnotationNetwork
)

func checkSet(set *v1alpha1.SandboxSet) []problem {
	var out []problem
	bad := func(field, format string, args ...any) {
		out = append(out, problem{field: field, reason: fmt.Sprintf(format, args...)})
	}
	for _, alias := range template.Aliases(set) {
		if len(validation.IsDNS1123Subdomain(alias)) > 0 {
			bad(aliasesField, "want names of lowercase letters, digits, - and ., separated by commas")
		}
	}
	if v, ok := set.Annotations[v1alpha1.AnnotationNetwork]; ok && !slices.Contains([]string{NetworkNone, NetworkPasta}, v) {
		bad(networkField, "want %s or %s", NetworkNone, NetworkPasta)
	}
	if set.Spec.Replicas < 0 {
		bad("spec.replicas", "want 0 or more")
	}
	for i, r := range set.Spec.Runtimes {
		field := fmt.Sprintf("spec.runtimes[%d].name", i)
		switch {
		case r.Name == "":
			bad(field, "required")
		case slices.Contains(set.Spec.Runtimes[:i], r):
			bad(field, "given twice")
		}
	}
	out = append(out, checkContainers(set)...)
	for i, v := range set.Spec.Volumes {
		field := fmt.Sprintf("spec.volumes[%d]", i)
		switch {
		case len(v.Name) > 49 || len(validation.IsDNS1123Label(v.Name)) > 0:
			bad(field+".name", "want lowercase letters, digits and - (at most 49)")
		case v.MountAt != "" && v.MountAt != v1alpha1.MountAtReady && v.MountAt != v1alpha1.MountAtClaim:
			bad(field+".mountAt", "want %s or %s", v1alpha1.MountAtReady, v1alpha1.MountAtClaim)
		}
	}
	if len(out) == 0 {
		if _, err := template.Volumes(set); err != nil {
			bad("spec.volumes", "%v", err)
			return out
		}
		if _, err := template.Of(set); err != nil {
			bad("spec.template.spec", "%v", err)
		}
	}
	return out
}

func checkContainers(set *v1alpha1.SandboxSet) []problem {
	const field = "spec.template.spec.containers"
	list := set.Spec.Template.Spec.Containers
	if len(list) == 0 {
		return []problem{{field: field, reason: "want at least one container; the first is the sandbox"}}
	}
	var out []problem
	seen := map[string]bool{}
	for i, c := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		switch {
		case len(validation.IsDNS1123Label(c.Name)) > 0:
			out = append(out, problem{field: at + ".name", reason: "want lowercase letters, digits and - (at most 63)"})
		case seen[c.Name]:
			out = append(out, problem{field: at + ".name", reason: "given twice"})
		}
		seen[c.Name] = true
		for k, m := range c.VolumeMounts {
			if !path.IsAbs(m.MountPath) || path.Clean(m.MountPath) != strings.TrimSuffix(m.MountPath, "/") {
				out = append(out, problem{field: fmt.Sprintf("%s.volumeMounts[%d].mountPath", at, k), reason: "want an absolute path without . and .. in it"})
			}
		}
		out = append(out, checkResources(c.Resources, at+".resources")...)
	}
	return out
}

func checkResources(r corev1.ResourceRequirements, field string) []problem {
	var out []problem
	for name, limit := range r.Limits {
		if limit.Sign() <= 0 {
			out = append(out, problem{field: field + ".limits." + string(name), reason: "want more than 0"})
		}
		if request, ok := r.Requests[name]; ok && request.Cmp(limit) > 0 {
			out = append(out, problem{field: field + ".requests." + string(name), reason: "is above the limit"})
		}
	}
	for name, request := range r.Requests {
		if request.Sign() < 0 {
			out = append(out, problem{field: field + ".requests." + string(name), reason: "want 0 or more"})
		}
	}
	return out
}

func addVolume(l *loader, d *document, object any) {
	pv := object.(*corev1.PersistentVolume)
	if pv.Namespace != "" {
		d.problem(d.at("metadata.namespace"), "metadata.namespace", "a PersistentVolume has none")
		return
	}
	ok := l.name(d, &pv.ObjectMeta, "PersistentVolume")
	for _, f := range checkVolume(pv) {
		d.problem(d.at(f.field), f.field, "%s", f.reason)
		ok = false
	}
	if ok {
		l.snap.volumes[pv.Name] = pv
	}
}

// checkVolume holds a volume to what a cluster would refuse as well, so that a manifest which works here works there.
func checkVolume(pv *corev1.PersistentVolume) []problem {
	out := checkModes(pv.Spec.AccessModes)
	if q := pv.Spec.Capacity[corev1.ResourceStorage]; q.Sign() <= 0 {
		out = append(out, problem{field: "spec.capacity.storage", reason: "required: a quantity above 0"})
	}
	if n := sources(pv.Spec.PersistentVolumeSource); n != 1 {
		out = append(out, problem{field: "spec", reason: fmt.Sprintf("want exactly one source such as csi, hostPath or local, got %d", n)})
	}
	require := func(field, value string) {
		if value == "" {
			out = append(out, problem{field: field, reason: "required"})
		}
	}
	if s := pv.Spec.CSI; s != nil {
		require("spec.csi.driver", s.Driver)
		require("spec.csi.volumeHandle", s.VolumeHandle)
		if ref := s.NodePublishSecretRef; ref != nil {
			require("spec.csi.nodePublishSecretRef.name", ref.Name)
			require("spec.csi.nodePublishSecretRef.namespace", ref.Namespace)
		}
	}
	absolute := func(field, p string) {
		if !path.IsAbs(p) {
			out = append(out, problem{field: field, reason: "want an absolute path"})
		}
	}
	if s := pv.Spec.HostPath; s != nil {
		absolute("spec.hostPath.path", s.Path)
	}
	if s := pv.Spec.Local; s != nil {
		absolute("spec.local.path", s.Path)
	}
	return out
}

func checkModes(modes []corev1.PersistentVolumeAccessMode) []problem {
	known := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOncePod}
	if len(modes) == 0 {
		return []problem{{field: "spec.accessModes", reason: "required: at least one"}}
	}
	for i, m := range modes {
		if !slices.Contains(known, m) {
			return []problem{{field: fmt.Sprintf("spec.accessModes[%d]", i), reason: fmt.Sprintf("want one of %v", known)}}
		}
	}
	return nil
}

// sources counts the sources that are set.
func sources(s corev1.PersistentVolumeSource) int {
	n := 0
	for v, i := reflect.ValueOf(s), 0; i < v.NumField(); i++ {
		if !v.Field(i).IsNil() {
			n++
		}
	}
	return n
}

func addClaim(l *loader, d *document, object any) {
	pvc := object.(*corev1.PersistentVolumeClaim)
	ok := l.namespaced(d, &pvc.ObjectMeta, "PersistentVolumeClaim")
	for _, f := range checkModes(pvc.Spec.AccessModes) {
		d.problem(d.at(f.field), f.field, "%s", f.reason)
		ok = false
	}
	if ok {
		l.snap.claims[key{pvc.Namespace, pvc.Name}] = pvc
	}
}

func addSecret(l *loader, d *document, object any) {
	s := object.(*corev1.Secret)
	if !l.namespaced(d, &s.ObjectMeta, "Secret") {
		return
	}
	// As the API server does: stringData is written over data and is gone afterwards.
	for k, v := range s.StringData {
		if s.Data == nil {
			s.Data = map[string][]byte{}
		}
		s.Data[k] = []byte(v)
	}
	s.StringData = nil
	l.snap.secrets[key{s.Namespace, s.Name}] = s
}
