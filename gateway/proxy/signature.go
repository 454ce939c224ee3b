package proxy

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/url"

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

// signer is the live sandbox whose token made the signature of r. The daemon checks it again, and its expiry.
func signer(ctx context.Context, l Lister, r *http.Request) (warmpool.ID, bool, error) {
	all, err := l.List(ctx, warmpool.Filter{States: []warmpool.State{warmpool.Running}})
	if err != nil {
		return "", false, err
	}
	q := r.URL.Query()
	given := []byte(q.Get("signature"))
	var found warmpool.ID
	for _, s := range all {
		if s.Token != "" && subtle.ConstantTimeCompare(given, []byte(signature(q, operation(r.Method), s.Token))) == 1 {
			found = s.ID
		}
	}
	return found, found != "", nil
}

func signature(q url.Values, op string, t warmpool.Token) string {
	text := q.Get("path") + ":" + op + ":" + q.Get("username") + ":" + t.Reveal()
	if exp := q.Get("signature_expiration"); exp != "" {
		text += ":" + exp
	}
	sum := sha256.Sum256([]byte(text))
	return "v1_" + base64.RawStdEncoding.EncodeToString(sum[:])
}
