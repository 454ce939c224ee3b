package files

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
)

// Read and Write are the operations that a URL can be signed for.
const (
	Read  = "read"
	Write = "write"
)

// Signature is what the holder of a sandbox's token puts into a URL, so that somebody without the token may transfer
// this one file. path and user are as the URL says them ("" for no user); exp, in Unix seconds, may be nil.
func Signature(path, op, user, token string, exp *int64) string {
	parts := []string{path, op, user, token}
	if exp != nil {
		parts = append(parts, strconv.FormatInt(*exp, 10))
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, ":")))
	return "v1_" + base64.RawStdEncoding.EncodeToString(sum[:])
}

var (
	errNoSignature  = errors.New("missing signature query parameter")
	errBadSignature = errors.New("invalid signature")
	errExpired      = errors.New("signature is already expired")
	errExpiration   = errors.New("signature_expiration must be a Unix time in seconds")
	errToken        = errors.New("access token present in header but does not match")
)

// signed says whether a /files URL's query was signed for op by the holder of token, and has not expired at now.
func signed(query url.Values, op, token string, now time.Time) error {
	signature := query.Get("signature")
	if signature == "" {
		return errNoSignature
	}
	var exp *int64
	if query.Has("signature_expiration") {
		n, err := strconv.ParseInt(query.Get("signature_expiration"), 10, 64)
		if err != nil {
			return errExpiration
		}
		exp = &n
	}
	want := Signature(query.Get("path"), op, query.Get("username"), token, exp)
	if subtle.ConstantTimeCompare([]byte(want), []byte(signature)) != 1 {
		return errBadSignature
	}
	if exp != nil && *exp < now.Unix() {
		return errExpired
	}
	return nil
}

// authorize lets pass who shows the token or a URL that was signed with it.
func (h *Handler) authorize(r *http.Request, op string) error {
	token := h.Token()
	if token == "" {
		return nil
	}
	if shown := r.Header.Get(initialize.Header); shown != "" {
		a, b := sha256.Sum256([]byte(shown)), sha256.Sum256([]byte(token))
		if subtle.ConstantTimeCompare(a[:], b[:]) != 1 {
			return errToken
		}
		return nil
	}
	return signed(r.URL.Query(), op, token, h.Clock.Now())
}
