package manifest

import (
	"fmt"
	"strings"
)

// elsewhere is a field that only a cluster acts on. A manifest is read as it was written for one, or as one gave it out.
type elsewhere struct {
	field   string
	refused string // why it cannot be left out; empty when it can
	quiet   bool   // leaving it out is not worth a word
}

// clusterFields are those of a SandboxSet.
var clusterFields = []elsewhere{
	{field: "status", quiet: true},
	{field: "spec.scaleStrategy"},  // how fast a cluster fills a pool
	{field: "spec.updateStrategy"}, // how fast it replaces old stock
	{field: "spec.templateRef", refused: "is not supported on one machine; write the pod out under spec.template"},
	{field: "spec.volumeClaimTemplates", refused: "is not supported on one machine: nothing makes volumes here; name PersistentVolumes in the create request"},
	{field: "spec.persistentContents", refused: "is not supported on one machine, where sandboxes cannot be paused"},
}

// setAside takes the fields of a cluster out of an object, and names those whose absence would change what it means.
func (l *loader) setAside(d *document, root map[string]any, object string, fields []elsewhere) {
	for _, f := range fields {
		in, name := root, f.field
		if outer, inner, nested := strings.Cut(f.field, "."); nested {
			in, _ = root[outer].(map[string]any)
			name = inner
		}
		if _, given := in[name]; !given {
			continue
		}
		delete(in, name)
		switch {
		case f.refused != "":
			d.problem(d.at(f.field), f.field, "%s", f.refused)
		case !f.quiet:
			l.snap.ignored = append(l.snap.ignored, fmt.Sprintf("%s: %s: %s", l.file, object, f.field))
		}
	}
}
