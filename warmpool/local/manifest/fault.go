package manifest

import (
	"fmt"
	"strings"
)

// Fault is one thing wrong with the manifests.
type Fault struct {
	File   string // name in the directory
	Line   int    // 0 when the file as a whole is meant
	Object string // Kind/name where known
	Field  string // such as spec.template.spec.containers[0].name
	Reason string
}

func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d", f.Line)
	}
	for _, part := range []string{f.Object, f.Field, f.Reason} {
		if part != "" {
			b.WriteString(": " + part)
		}
	}
	return b.String()
}

// Faults are all the things wrong with a directory. It is an error when it is not empty.
type Faults []Fault

func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, x := range f {
		lines[i] = x.String()
	}
	return strings.Join(lines, "\n")
}

func (f Faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return f
}
