package mount

import (
	"fmt"
	"log/slog"
)

// Secret is a volume's credentials by key. Whatever prints, logs or encodes it gets "[redacted]".
type Secret map[string]string

const redacted = "[redacted]"

// String hides the content.
func (Secret) String() string { return redacted }

// Format hides the content from every other verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue hides the content from slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON hides the content from encoders; a Secret cannot travel as JSON.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
