package proxy

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"hash"
	"io"
	"net/http"

	"github.com/sandgate-dev/sandgate/warmpool"
)

// Lister lists sandboxes with their tokens. With it a signed file URL finds its sandbox on a host that names none, as SDKs
// build them when they are given a bare gateway address.
type Lister interface {
	List(ctx context.Context, f warmpool.Filter) ([]warmpool.Sandbox, error)
}

// signed says whether a request is for a file by signature.
func signed(r *http.Request) bool {
	return r.URL.Path == "/files" && operation(r.Method) != "" && r.URL.Query().Get("signature") != ""
}

// operation is the word for a method in a signature.
func operation(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead:
		return "read"
	case http.MethodPost:
		return "write"
	}
	return ""
}

const (
	signatureBytes  = len("v1_") + 43 // of a SHA-256, base64 without padding
	expirationBytes = 20              // of a number of seconds
)

// signer is the live sandbox whose token made the signature of r. The daemon checks it again, and its expiry.
func signer(ctx context.Context, l Lister, r *http.Request) (warmpool.ID, bool, error) {
	q := r.URL.Query()
	given, expiration := q.Get("signature"), q.Get("signature_expiration")
	if len(given) != signatureBytes || len(expiration) > expirationBytes {
		return "", false, nil
	}
	all, err := l.List(ctx, warmpool.Filter{States: []warmpool.State{warmpool.Running}})
	if err != nil {
		return "", false, err
	}
	// Nobody has shown a key yet: what the caller wrote is hashed once, not once a sandbox.
	begun := sha256.New()
	_, _ = io.WriteString(begun, q.Get("path")+":"+operation(r.Method)+":"+q.Get("username")+":") // a hash never fails
	var found warmpool.ID
	for _, s := range all {
		if s.Token != "" && subtle.ConstantTimeCompare([]byte(given), []byte(signature(begun, s.Token, expiration))) == 1 {
			found = s.ID
		}
	}
	return found, found != "", nil
}

// signature is what a token makes of a request whose path, operation and user are in begun.
func signature(begun hash.Hash, t warmpool.Token, expiration string) string {
	h, err := begun.(hash.Cloner).Clone()
	if err != nil {
		panic(err) // a SHA-256 can always be cloned
	}
	text := t.Reveal()
	if expiration != "" {
		text += ":" + expiration
	}
	_, _ = io.WriteString(h, text)
	return "v1_" + base64.RawStdEncoding.EncodeToString(h.Sum(nil))
}
