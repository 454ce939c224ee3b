package volume

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// allowed is the default volume policy: a static, unbound volume is everybody's unless an annotation names its teams; one
// that is bound to a claim is somebody's disk, and is mounted only for teams that an annotation names.
func allowed(pv *corev1.PersistentVolume, team string) bool {
	teams, restricted := pv.Annotations[v1alpha1.AnnotationTeams]
	if !restricted {
		return pv.Spec.ClaimRef == nil
	}
	return team != "" && slices.Contains(split(teams), team)
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
