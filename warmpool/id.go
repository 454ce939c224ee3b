package warmpool

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"regexp"
)

// ID names a sandbox: "i" and 19 characters [a-z0-9], so that it can be a host name and passes E2B's own id rules.
type ID string

var idGrammar = regexp.MustCompile(`^i[a-z0-9]{19}$`)

// NewID makes a random ID; 98 bits of it cannot be guessed.
func NewID() ID {
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
	out := make([]byte, 0, 20)
	out = append(out, 'i')
	var buf [32]byte
	for len(out) < 20 {
		_, _ = rand.Read(buf[:]) // never fails (crypto/rand)
		for _, b := range buf {
			// 252 is the largest multiple of 36 in a byte: rejecting above it keeps the draw uniform.
			if b < 252 && len(out) < 20 {
				out = append(out, alphabet[b%36])
			}
		}
	}
	return ID(out)
}

// ParseID returns s as an ID, and whether it is one.
func ParseID(s string) (ID, bool) { return ID(s), idGrammar.MatchString(s) }

// Token opens a sandbox's daemon. Whatever prints or logs it gets "[redacted]"; Reveal is for the wire to its owner.
type Token string

// String hides the token.
func (Token) String() string { return "[redacted]" }

// Format hides the token from every other verb.
func (Token) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// LogValue hides the token from slog.
func (Token) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// MarshalJSON hides the token from encoders.
func (Token) MarshalJSON() ([]byte, error) { return []byte(`"[redacted]"`), nil }

// Reveal is the token itself.
func (t Token) Reveal() string { return string(t) }
