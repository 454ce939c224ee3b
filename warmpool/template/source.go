package template

import (
	"strings"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// ephemeral begins the sources of ephemeral volumes.
const ephemeral = "ephemeral/"

// Source says which volume a mount is of, as the status of a Sandbox has it.
func Source(s mount.Spec) string {
	name := s.Volume
	switch {
	case s.IsEphemeral():
		name = ephemeral + name
	case s.Kind == mount.KindClaim:
		name = "pvc/" + name
	case s.Kind == mount.KindPool:
		name = "pool/" + name
	}
	if s.SubPath == "" {
		return name
	}
	return name + ":" + s.SubPath
}

// SourceOf is the source of a mount as it is told now: earlier controllers told that of an ephemeral volume by its name alone.
func SourceOf(known v1alpha1.MountStatus) string {
	if known.Driver == mount.DriverEphemeral && !strings.HasPrefix(known.Source, ephemeral) {
		return ephemeral + known.Source
	}
	return known.Source
}
