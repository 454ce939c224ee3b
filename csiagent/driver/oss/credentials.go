package oss

import (
	"fmt"
	"strings"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// credentials are what an object store knows a client by: a key, and for a while also the token that it was issued with.
type credentials struct {
	id, secret, token string
	expires           time.Time // zero when nobody said
}

// String hides the content.
func (credentials) String() string { return "[redacted]" }

// Format hides the content from every verb.
func (credentials) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

const maxToken = 8 << 10

// The names of a Secret's keys, in small letters: Secrets in the field spell them in many ways.
const (
	keyID, keySecret, keyToken, keyExpires = "accesskeyid", "accesskeysecret", "securitytoken", "expiration"
)

// keys takes the credentials from the volume's Secret: akId and akSecret, or AccessKeyId and AccessKeySecret with or without a
// SecurityToken.
func keys(s mount.Secret) (credentials, error) {
	long := map[string]string{}
	for k, text := range s {
		switch name := strings.ToLower(k); name {
		case keyID, keySecret, keyToken, keyExpires:
			long[name] = strings.TrimSpace(text)
		}
	}
	c := credentials{id: strings.TrimSpace(s["akId"]), secret: strings.TrimSpace(s["akSecret"])}
	switch {
	case c == (credentials{}):
		c = credentials{id: long[keyID], secret: long[keySecret], token: long[keyToken]}
	case long[keyToken] != "":
		return credentials{}, invalid("the volume's Secret must hold a SecurityToken beside AccessKeyId and AccessKeySecret, not beside akId and akSecret")
	}
	switch {
	case c.id == "" || c.secret == "":
		return credentials{}, invalid("the volume's Secret must hold akId and akSecret, or AccessKeyId and AccessKeySecret")
	case badKey(c.id) || badKey(c.secret):
		return credentials{}, invalid("the volume's Secret holds a key with a space, a colon or a control character")
	case c.token == "":
		return c, nil // Expiration is a token's
	}
	return c, c.check(long[keyExpires])
}

// check looks at a token and at when it ends.
func (c *credentials) check(expires string) (err error) {
	if len(c.token) > maxToken || strings.ContainsFunc(c.token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return invalid("the volume's Secret must hold a SecurityToken of at most %d visible characters", maxToken)
	}
	if expires == "" {
		return nil
	}
	if c.expires, err = time.Parse(time.RFC3339, expires); err != nil {
		return invalid("the volume's Secret must hold its Expiration as 2006-01-02T15:04:05Z, or none")
	}
	if !time.Now().Before(c.expires) {
		return fmt.Errorf("%w: the SecurityToken in the volume's Secret has expired; put a new one with its AccessKeyId and AccessKeySecret there", mount.ErrDenied)
	}
	return nil
}

func badKey(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' })
}
