package mount

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of a path, in a sandbox or in a volume.
const (
	maxPathBytes  = 4096
	maxComponents = 16
	maxNameBytes  = 255
)

// reserved are the targets that no policy can open: they, what lies below them and what lies above them belong to the
// system, to the programs of the image, to the kubelet's secrets or to our own programs in the sandbox.
var reserved = []string{
	"/proc", "/sys", "/dev", "/etc", "/run", "/var/run", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/boot",
	"/.sandgate",
}

// parseTarget returns the normalised form of a path in the sandbox, or what is wrong with it.
func parseTarget(s string) (string, string) {
	switch {
	case s == "":
		return "", "is required: give an absolute path such as /data"
	case len(s) > maxPathBytes:
		return "", fmt.Sprintf("has %d bytes; at most %d are allowed", len(s), maxPathBytes)
	case s[0] != '/':
		return "", "must be absolute, such as /data"
	case s == "/":
		return "", "must not be the root directory; give a path such as /data"
	}
	rel, reason := parseComponents(s[1:])
	if reason != "" {
		return "", reason
	}
	target := "/" + rel
	return target, reservedReason(target, nil)
}

// parseSubPath returns the normalised form of a directory in a volume, or what is wrong with it.
func parseSubPath(s string) (string, string) {
	switch {
	case s == "":
		return "", ""
	case len(s) > maxPathBytes:
		return "", fmt.Sprintf("has %d bytes; at most %d are allowed", len(s), maxPathBytes)
	case s[0] == '/':
		return "", "must be relative to the volume's root; drop the leading /"
	}
	if reason := unknownPlaceholder(s); reason != "" {
		return "", reason
	}
	return parseComponents(s)
}

// parseComponents checks the part of a path that targets and sub paths have in common, and drops one trailing slash.
func parseComponents(s string) (string, string) {
	s = strings.TrimSuffix(s, "/")
	parts := strings.Split(s, "/")
	if len(parts) > maxComponents {
		return "", fmt.Sprintf("has %d components; at most %d are allowed", len(parts), maxComponents)
	}
	for _, p := range parts {
		if reason := componentReason(p); reason != "" {
			return "", reason
		}
	}
	return s, ""
}

func componentReason(p string) string {
	switch {
	case p == "":
		return "must not contain // (an empty component)"
	case p == "." || p == "..":
		return fmt.Sprintf("must not contain a component %q", p)
	case len(p) > maxNameBytes:
		return fmt.Sprintf("has a component of %d bytes; at most %d are allowed", len(p), maxNameBytes)
	}
	return characterReason(p)
}

func characterReason(s string) string {
	switch {
	case !utf8.ValidString(s):
		return "must be valid UTF-8"
	case strings.ContainsFunc(s, unicode.IsControl):
		return "must not contain control characters"
	case strings.Contains(s, ":"):
		return "must not contain a colon"
	}
	return ""
}

// reservedReason says why target may not be mounted on, "" when it may. more are paths reserved beside the built-in ones.
func reservedReason(target string, more []string) string {
	if target == "/tmp" {
		return "must not be /tmp itself; a directory below it is allowed"
	}
	for _, r := range slices.Concat(reserved, more) {
		r = path.Clean(r)
		switch {
		case target == r:
			return "must not be " + r + ", which is reserved; choose a path such as /data"
		case inside(target, r):
			return "must not be below " + r + ", which is reserved; choose a path such as /data"
		case inside(r, target):
			return "must not be above " + r + ", which is reserved; choose a path such as /data"
		}
	}
	return ""
}

// inside says whether the absolute, clean path p lies below dir.
func inside(p, dir string) bool {
	return p != dir && strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}
