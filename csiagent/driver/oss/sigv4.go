package oss

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

const algorithm = "AWS4-HMAC-SHA256"

var errUnsigned = errors.New("the request has no signature of version 4")

// sign gives a request that is signed with version 4 the signature of other credentials, over the same date, region and content. The
// path is put into the form that is signed, so that the server cannot read it in another way.
func sign(r *http.Request, c credentials) error {
	scope, err := scopeOf(r)
	if err != nil {
		return err
	}
	r.Header.Del("X-Amz-Security-Token")
	if c.token != "" {
		r.Header.Set("X-Amz-Security-Token", c.token)
	}
	path := escape(r.URL.Path, true)
	r.URL.RawPath = path
	names, headers := canonicalHeaders(r)
	canonical := strings.Join([]string{
		r.Method, path, canonicalQuery(r.URL.RawQuery), headers, names, r.Header.Get("X-Amz-Content-Sha256"),
	}, "\n")
	sum := sha256.Sum256([]byte(canonical))
	text := strings.Join([]string{algorithm, r.Header.Get("X-Amz-Date"), scope, hex.EncodeToString(sum[:])}, "\n")
	key := []byte("AWS4" + c.secret)
	for _, part := range strings.Split(scope, "/") {
		key = mac(key, part)
	}
	r.Header.Set("Authorization", fmt.Sprintf("%s Credential=%s/%s, SignedHeaders=%s, Signature=%s",
		algorithm, c.id, scope, names, hex.EncodeToString(mac(key, text))))
	return nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// scopeOf is what a request was signed for: date/region/s3/aws4_request.
func scopeOf(r *http.Request) (string, error) {
	rest, ok := strings.CutPrefix(r.Header.Get("Authorization"), algorithm+" Credential=")
	credential, _, ended := strings.Cut(rest, ",")
	_, scope, scoped := strings.Cut(credential, "/")
	if !ok || !ended || !scoped || strings.Count(scope, "/") != 3 || r.Header.Get("X-Amz-Date") == "" || r.Header.Get("X-Amz-Content-Sha256") == "" {
		return "", errUnsigned
	}
	return scope, nil
}

// canonicalHeaders are those that must be signed: the host, and what changes what the request means.
func canonicalHeaders(r *http.Request) (names, lines string) {
	h := r.Header.Clone()
	h.Set("Host", r.Host)
	return signedHeaders(h, collapse, "x-amz-", "content-type", "content-md5", "host")
}

// collapse makes one space of many; OSS leaves them.
func collapse(s string) string { return strings.Join(strings.Fields(s), " ") }

// headerLines are headers by their names in small letters, in order.
func headerLines(all map[string]string) (names, lines string) {
	order := slices.Sorted(maps.Keys(all))
	var b strings.Builder
	for _, name := range order {
		b.WriteString(name + ":" + all[name] + "\n")
	}
	return strings.Join(order, ";"), b.String()
}

func canonicalQuery(raw string) string {
	if raw == "" {
		return ""
	}
	var pairs []string
	for _, pair := range strings.Split(raw, "&") {
		name, value, _ := strings.Cut(pair, "=")
		pairs = append(pairs, escape(unescape(name), false)+"="+escape(unescape(value), false))
	}
	slices.Sort(pairs)
	return strings.Join(pairs, "&")
}

func unescape(s string) string {
	if out, err := url.QueryUnescape(s); err == nil {
		return out
	}
	return s
}

// escape leaves nothing but letters, digits and -_.~ as it is, and the slashes of a path.
func escape(s string, path bool) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.', c == '~', path && c == '/':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
