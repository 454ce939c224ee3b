package volume

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// Default says who may mount a volume whose annotations name nobody. The zero value is Unbound.
type Default string

// The defaults there are.
const (
	// Unbound: everybody may mount a static volume; one that is bound to a claim is somebody's disk, and nobody's here.
	Unbound Default = "unbound"
	// Deny: nobody may mount it.
	Deny Default = "deny"
	// Allow: everybody may mount it, bound or not.
	Allow Default = "allow"
)

// Set implements flag.Value.
func (d *Default) Set(text string) error {
	switch v := Default(text); v {
	case Unbound, Deny, Allow:
		*d = v
		return nil
	}
	return errors.New("expected unbound, deny or allow")
}

// String implements flag.Value.
func (d *Default) String() string { return string(*d) }

// allowed is whether an annotation names the principal's team or key, or, where none names anybody, the default lets him in.
func (d Default) allowed(pv *corev1.PersistentVolume, who warmpool.Principal) bool {
	if in, said := named(pv, who); said {
		return in
	}
	return d == Allow || d != Deny && pv.Spec.ClaimRef == nil
}

// named is whether an object's annotations name the principal's team or key, if they name anybody.
func named(o metav1.Object, who warmpool.Principal) (in, said bool) {
	teams, byTeam := o.GetAnnotations()[v1alpha1.AnnotationTeams]
	keys, byKey := o.GetAnnotations()[v1alpha1.AnnotationKeys]
	in = who.Team != "" && slices.Contains(split(teams), who.Team) || who.Key != "" && slices.Contains(split(keys), who.Key)
	return in, byTeam || byKey
}

// restricted is src with what the owner of a volume, or of the claim that has it, demands of every mount by this principal. An annotation
// that cannot be obeyed is a reason to refuse, never one to ignore.
func restricted(src source, kind string, o metav1.Object, who warmpool.Principal) source {
	annotations := o.GetAnnotations()
	refuse := func(annotation, format string, args ...any) {
		src.reasons = append(src.reasons, fmt.Sprintf("%s %q is set up wrongly: annotation %s ", kind, o.GetName(), annotation)+fmt.Sprintf(format, args...))
	}
	switch value, there := annotations[v1alpha1.AnnotationReadOnly]; {
	case !there || value == "false":
	case value == "true":
		src.ReadOnly = true
	default:
		refuse(v1alpha1.AnnotationReadOnly, "must be true or false")
	}
	if prefix, there := annotations[v1alpha1.AnnotationSubPath]; there {
		inner, ok := confine(prefix, who)
		if src.Prefix = path.Join(src.Prefix, inner); !ok {
			refuse(v1alpha1.AnnotationSubPath, "must be a relative directory; ${TEAM} and ${KEY} stand for whoever mounts it")
		}
	}
	if targets, there := annotations[v1alpha1.AnnotationTargets]; there {
		list := split(targets)
		if bad := slices.IndexFunc(list, func(t string) bool { return !path.IsAbs(t) || path.Clean(t) != t }); bad >= 0 || len(list) == 0 {
			refuse(v1alpha1.AnnotationTargets, "must be absolute paths, comma-separated")
		}
		src.targets = both(src.targets, list)
	}
	return src
}

// confine is the directory that prefix means for the principal. A name that is more than one component of a path is none of a directory.
func confine(prefix string, who warmpool.Principal) (string, bool) {
	for name, value := range map[string]string{"${TEAM}": who.Team, "${KEY}": who.Key} {
		if strings.Contains(prefix, name) && (value == "" || strings.ContainsAny(value, "/$")) {
			return "", false
		}
		prefix = strings.ReplaceAll(prefix, name, value)
	}
	out, err := mount.Expand(prefix, nil)
	return out, err == nil && out != ""
}

// within is whether target is one of the prefixes or below one.
func within(target string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool {
		return target == p || strings.HasPrefix(target, strings.TrimSuffix(p, "/")+"/")
	})
}

// both are the paths that are within one of each list; nil is every path.
func both(a, b []string) []string {
	if a == nil {
		return b
	}
	out := []string{}
	for _, lists := range [][2][]string{{a, b}, {b, a}} {
		for _, t := range lists[0] {
			if within(t, lists[1]) && !slices.Contains(out, t) {
				out = append(out, t)
			}
		}
	}
	return out
}

// split takes a comma-separated list apart; blanks around items and empty items do not count.
func split(list string) []string {
	var out []string
	for _, item := range strings.Split(list, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}
