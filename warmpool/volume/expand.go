package volume

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// metadataPlaceholders are the placeholders that the caller's metadata fills in, under the same key.
var metadataPlaceholders = []string{"USER_ID"}

// Expand fills in the placeholders of the mounts' sub-paths, now that the sandbox is known: ${SANDBOX_ID}, its other name
// ${ACTOR_ID}, and ${USER_ID} from the metadata key USER_ID. What Resolve let through does not fail here.
func Expand(ms []mount.Mount, id warmpool.ID, p warmpool.Principal, metadata map[string]string) ([]mount.Mount, error) {
	out := slices.Clone(ms)
	var faults mount.Faults
	for i := range out {
		sub, err := expand(out[i].SubPath, values(id, p, metadata))
		if err != nil {
			faults = append(faults, mount.Fault{Index: i, Field: mount.FieldSubPath, Reason: err.Error()})
			continue
		}
		out[i].SubPath = sub
	}
	return out, faults.Err()
}

// sample is as long as every ID is, so that a sub-path which is valid with it is valid with all.
const sample warmpool.ID = "i0000000000000000000"

// expandable is why a sub-path will not expand, empty when it will.
func expandable(subPath string, p warmpool.Principal, metadata map[string]string) string {
	if _, err := expand(subPath, values(sample, p, metadata)); err != nil {
		return err.Error()
	}
	return ""
}

func values(id warmpool.ID, _ warmpool.Principal, metadata map[string]string) map[string]string {
	v := map[string]string{"SANDBOX_ID": string(id), "ACTOR_ID": string(id)}
	for _, key := range metadataPlaceholders {
		if value, ok := metadata[key]; ok {
			v[key] = value
		}
	}
	return v
}

func expand(subPath string, values map[string]string) (string, error) {
	var out strings.Builder
	rest := subPath
	for {
		before, after, found := strings.Cut(rest, "${")
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		name, tail, closed := strings.Cut(after, "}")
		value, known := values[name]
		switch {
		case !closed:
			return "", fmt.Errorf("a ${ has no }")
		case !known && slices.Contains(metadataPlaceholders, name):
			return "", fmt.Errorf("${%s} needs metadata key %s", name, name)
		case !known:
			return "", fmt.Errorf("no such placeholder; there are ${SANDBOX_ID}, ${ACTOR_ID} and ${%s}", strings.Join(metadataPlaceholders, "}, ${"))
		case value == "" || value == "." || value == ".." || strings.ContainsAny(value, "/\x00"):
			return "", fmt.Errorf("the value of ${%s} must be one component of a path", name)
		}
		out.WriteString(value)
		rest = tail
	}
}
