package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"regexp"
)

// Key is an API key in the clear. Whatever prints or logs it gets "[redacted]"; Reveal is for its owner, once.
type Key string

// grammar is what every E2B SDK accepts: they check `^e2b_[0-9a-f]+$` before they send anything.
var grammar = regexp.MustCompile(`^e2b_[0-9a-f]{40}$`)

// Generate makes a random key of 160 bits.
func Generate() Key {
	var b [20]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return Key("e2b_" + hex.EncodeToString(b[:]))
}

// Parse returns s as a key, and whether it has a key's form.
func Parse(s string) (Key, bool) { return Key(s), grammar.MatchString(s) }

// Reveal is the key itself.
func (k Key) Reveal() string { return string(k) }

// Hash is what is stored of a key. A plain SHA-256 is enough: nobody searches 160 random bits.
func (k Key) Hash() string {
	sum := sha256.Sum256([]byte(k))
	return hex.EncodeToString(sum[:])
}

// String hides the key.
func (Key) String() string { return "[redacted]" }

// Format hides the key from every other verb.
func (Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// LogValue hides the key from slog.
func (Key) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// MarshalJSON hides the key from encoders.
func (Key) MarshalJSON() ([]byte, error) { return []byte(`"[redacted]"`), nil }
