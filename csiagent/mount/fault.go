package mount

import (
	"fmt"
	"strings"
)

// Field is a field of a Spec, so that a dialect can name the place the caller wrote it in.
type Field string

// The fields of a Spec that a Fault can name.
const (
	FieldVolume    Field = "volume"
	FieldTarget    Field = "target"
	FieldSubPath   Field = "subPath"
	FieldReadOnly  Field = "readOnly"
	FieldContainer Field = "container"
	FieldID        Field = "id"
	FieldSize      Field = "size"   // of an ephemeral volume
	FieldInodes    Field = "inodes" // of an ephemeral volume
)

// Fault is one thing wrong with one of the mounts of a request: what was expected and what to do, for the caller to read.
type Fault struct {
	Index  int // position of the mount in the request
	Field  Field
	Reason string
}

// Faults are all the things wrong with a request's mounts. It is an error when it is not empty.
type Faults []Fault

func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, x := range f {
		lines[i] = fmt.Sprintf("mounts[%d].%s: %s", x.Index, x.Field, x.Reason)
	}
	return strings.Join(lines, "; ")
}

// Err is f as an error, nil when there are none.
func (f Faults) Err() error {
	if len(f) == 0 {
		return nil
	}
	return f
}

// At returns f with every index set to i: faults of one spec, seen from the whole request.
func (f Faults) At(i int) Faults {
	out := make(Faults, len(f))
	for k, x := range f {
		x.Index = i
		out[k] = x
	}
	return out
}
