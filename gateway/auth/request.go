package auth

import (
	"net/http"
	"strings"

	"github.com/sandgate-dev/sandgate/warmpool"
)

// FromRequest is the API key of a request: header X-API-Key, or Authorization: Bearer for plain HTTP clients. The form of it
// is not checked. False when there is none, or more than one X-API-Key.
func FromRequest(r *http.Request) (string, bool) {
	switch keys := r.Header.Values("X-API-Key"); {
	case len(keys) == 1 && keys[0] != "":
		return keys[0], true
	case len(keys) > 0:
		return "", false
	}
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", false
	}
	return token, true
}

// Authenticate is the principal of a request.
func (k *Keys) Authenticate(r *http.Request) (warmpool.Principal, bool) {
	key, ok := FromRequest(r)
	if !ok {
		return warmpool.Principal{}, false
	}
	return k.Lookup(key)
}
