// Package initialize is both ends of a sandbox's first word: POST /init. The caller's end (Init, Signer, Token) is
// for whoever hands a warm sandbox to its owner; the daemon's end (Handler, Verifier, State) keeps what was said:
// the access token, the environment, the default user and directory.
//
// A sandbox waits unowned on a network that others may reach. With a key, its daemon therefore believes only a
// request signed by the key's holder for this very sandbox; and once owned it never changes owner. The package knows
// neither pools nor what the daemon does after it was initialised.
package initialize

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Path is where the daemon is initialised, Header where callers show the access token afterwards, VersionHeader
// where the answer names the daemon's version.
const (
	Path          = "/init"
	Header        = "X-Access-Token"
	VersionHeader = "X-Envd-Version"
)

// ErrRefused says that the daemon does not take the caller for the sandbox's owner. A sandbox fresh from the pool
// that answers so was initialised by somebody else.
var ErrRefused = errors.New("the daemon refused the initialisation")

// Request is the body of POST /init. A field left out leaves the daemon's value; EnvVars replaces all earlier ones.
type Request struct {
	AccessToken    string            `json:"accessToken,omitempty"`
	EnvVars        map[string]string `json:"envVars,omitempty"`
	DefaultUser    string            `json:"defaultUser,omitempty"`
	DefaultWorkdir string            `json:"defaultWorkdir,omitempty"`
	// Timestamp orders requests: one older than the last is answered, but changes nothing. The clock is never set.
	Timestamp *time.Time `json:"timestamp,omitempty"`
}

// Format hides the request, which holds the token and the owner's environment, from every verb.
func (Request) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// LogValue hides the request.
func (Request) LogValue() slog.Value { return slog.StringValue("[redacted]") }

func (r Request) validate() error {
	for name, value := range r.EnvVars {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return fmt.Errorf("envVars: '%s' is no name of a variable: it must not be empty nor hold '=' or NUL", name)
		}
		if strings.ContainsRune(value, 0) {
			return fmt.Errorf("envVars: the value of '%s' holds a NUL byte", name)
		}
	}
	return nil
}

// Token is the access token of a sandbox for one claim, in hex. Who holds the key can compute it at any time, so
// nobody has to store it.
func Token(key []byte, sandboxID, nonce string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(sandboxID + "|" + nonce))
	return hex.EncodeToString(mac.Sum(nil))
}
