package mount

import (
	"fmt"
	"regexp"
	"strings"
)

// The placeholders that a sub path may contain. Which of them a caller may use, and what they stand for, is decided where the
// principal is known; Expand puts the values in.
const (
	SandboxID = "SANDBOX_ID"
	ActorID   = "ACTOR_ID" // another name of the sandbox ID
	UserID    = "USER_ID"
)

var placeholder = regexp.MustCompile(`\$\{(` + SandboxID + `|` + ActorID + `|` + UserID + `)\}`)

// unknownPlaceholder says what is wrong with the placeholders of a sub path, "" when they are all known.
func unknownPlaceholder(sub string) string {
	if strings.Contains(placeholder.ReplaceAllString(sub, "/"), "${") {
		return fmt.Sprintf("has an unknown placeholder; ${%s}, ${%s} and ${%s} are known", SandboxID, ActorID, UserID)
	}
	return ""
}

// Expand replaces the placeholders of a parsed sub path by vars, whose keys are the names without ${}. The result is checked
// again: a value must be a single path component's worth of text, and may neither climb nor bring placeholders of its own.
// The error is Faults with index 0.
func Expand(sub string, vars map[string]string) (string, error) {
	var faults Faults
	refuse := func(reason string) { faults = append(faults, Fault{Field: FieldSubPath, Reason: reason}) }
	out := placeholder.ReplaceAllStringFunc(sub, func(m string) string {
		name := m[2 : len(m)-1]
		v, ok := vars[name]
		switch {
		case !ok || v == "":
			refuse(m + " has no value here; leave it out")
		case strings.Contains(v, "/"):
			refuse("the value of " + m + " must not contain /")
		case strings.Contains(v, "${"):
			refuse("the value of " + m + " must not contain a placeholder")
		}
		return v
	})
	if len(faults) > 0 {
		return "", faults
	}
	clean, reason := parseSubPath(out)
	if reason == "" && strings.Contains(clean, "${") {
		reason = "has a placeholder left after expansion"
	}
	if reason != "" {
		refuse("after its placeholders were filled in, " + reason)
		return "", faults
	}
	return clean, nil
}
