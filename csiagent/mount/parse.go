package mount

import (
	"cmp"
	"fmt"
	"regexp"
)

// Lengths are looked at apart: an expression that counts them takes a hundred times the memory.
var (
	volumeName    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	containerName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	mountID       = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
)

const maxLabel = 63

// Parse returns s with its paths normalised and its ID filled in, or Faults with index 0 that name everything wrong with it.
// What it returns holds as a value: no component climbs, no target is reserved. Whether the directories are what they seem is
// known only where the file system is real. Parsing a parsed spec changes nothing.
func Parse(s Spec) (Spec, error) {
	var faults Faults
	refuse := func(f Field, reason string) {
		if reason != "" {
			faults = append(faults, Fault{Field: f, Reason: reason})
		}
	}
	if s.Kind == "PersistentVolume" { // one name for one thing
		s.Kind = ""
	}
	target, reason := parseTarget(s.Target)
	if s.IsEphemeral() {
		refuse(FieldVolume, ephemeralReason(s))
		refuse(FieldSize, sizeReason(s.Ephemeral.Size))
		refuse(FieldInodes, inodesReason(s.Ephemeral.Inodes))
		if s.SubPath != "" {
			refuse(FieldSubPath, "an ephemeral volume is empty at first and has none; leave it out")
		}
		if reason == "" && inside(target, "/tmp") {
			reason = "must not be below /tmp, which stays the container's own; choose a path such as /data"
		}
	} else {
		refuse(FieldVolume, volumeReason(s))
	}
	refuse(FieldTarget, reason)
	sub, reason := parseSubPath(s.SubPath)
	refuse(FieldSubPath, reason)
	if s.Container != "" && (len(s.Container) > maxLabel || !containerName.MatchString(s.Container)) {
		refuse(FieldContainer, "must be the name of a container: at most 63 lower-case letters, digits and -")
	}
	refuse(FieldID, idReason(s.ID))
	if err := faults.Err(); err != nil {
		return Spec{}, err
	}
	s.Target, s.SubPath = target, sub
	if s.ID == "" {
		s.ID = s.DerivedID()
	}
	return s, nil
}

func volumeReason(s Spec) string {
	what := cmp.Or(s.Kind, "PersistentVolume")
	switch {
	case s.Kind != "" && s.Kind != KindClaim && s.Kind != KindPool:
		return fmt.Sprintf("is of no known kind; known are PersistentVolume, %s and %s", KindClaim, KindPool)
	case s.Volume == "":
		return fmt.Sprintf("is required: give the name of a %s", what)
	case len(s.Volume) > 253 || !volumeName.MatchString(s.Volume):
		return fmt.Sprintf("must be the name of a %s: at most 253 lower-case letters, digits, - and .", what)
	}
	return ""
}

func ephemeralReason(s Spec) string {
	switch {
	case s.Kind != "":
		return "is of kind " + string(s.Kind) + ", which no ephemeral volume has"
	case s.Volume == "":
		return "is required: give the volume a name"
	case len(s.Volume) > maxLabel || !containerName.MatchString(s.Volume):
		return "must be at most 63 lower-case letters, digits and -"
	}
	return ""
}

// Bounds of an ephemeral volume. The kernel keeps about a kilobyte for an inode.
const (
	minSize              = 4096 // a page
	minInodes, maxInodes = 2, 1 << 20
)

func sizeReason(size int64) string {
	if size < minSize {
		return "is required: a whole number of bytes, at least 4Ki, such as 64Mi"
	}
	return ""
}

func inodesReason(inodes int64) string {
	if inodes != 0 && (inodes < minInodes || inodes > maxInodes) {
		return fmt.Sprintf("must be between %d and %d; leave it out for one in 16Ki of the size, at least 1024", minInodes, maxInodes)
	}
	return ""
}

func idReason(id string) string {
	switch {
	case id == "":
		return ""
	case len(id) > maxLabel || !mountID.MatchString(id):
		return "must be 1 to 63 of the characters A-Z a-z 0-9 . _ -"
	case id == "." || id == "..":
		return fmt.Sprintf("must not be %q", id)
	}
	return ""
}
