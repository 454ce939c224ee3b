package oss

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // what version 1 of the signature is made of
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// OSS has signatures of its own, by which its client ossfs signs. How a request was signed says how it is to be signed again.
const ossV1, ossV4 = "OSS", "OSS4-HMAC-SHA256"

var errElsewhere = errors.New("the request is not about the volume's bucket")

// resign gives a request the signature of other credentials, in the way its client has signed it.
func (o origin) resign(r *http.Request, c credentials) error {
	how, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if how != ossV1 && how != ossV4 {
		return sign(r, c)
	}
	key, ours := o.key(r)
	if !ours {
		return errElsewhere
	}
	r.Header.Del("X-Oss-Security-Token")
	if c.token != "" {
		r.Header.Set("X-Oss-Security-Token", c.token)
	}
	r.URL.RawPath = escape(r.URL.Path, true) // so that the server cannot read it in another way
	resource := "/" + o.Bucket + "/" + key
	if how == ossV1 {
		signOSS1(r, c, resource)
		return nil
	}
	return signOSS4(r, c, resource)
}

// subResources are the parameters that version 1 signs; a client of ours sends no others that mean something to the store but those of lists.
var subResources = []string{
	"acl", "append", "continuation-token", "delete", "location", "objectMeta", "partNumber", "position", "stat", "symlink", "tagging", "uploadId",
	"uploads", "versionId", "versions",
}

func signOSS1(r *http.Request, c credentials, resource string) {
	date := r.Header.Get("X-Oss-Date")
	if date == "" {
		date = r.Header.Get("Date")
	}
	_, headers := signedHeaders(r.Header, strings.TrimSpace, "x-oss-")
	var signed []string
	for _, pair := range strings.Split(r.URL.RawQuery, "&") {
		name, value, valued := strings.Cut(pair, "=")
		switch name = unescape(name); {
		case !slices.Contains(subResources, name):
		case valued && value != "":
			signed = append(signed, name+"="+unescape(value))
		default:
			signed = append(signed, name)
		}
	}
	slices.Sort(signed)
	if len(signed) > 0 {
		resource += "?" + strings.Join(signed, "&")
	}
	text := strings.Join([]string{r.Method, r.Header.Get("Content-Md5"), r.Header.Get("Content-Type"), date, headers + resource}, "\n")
	h := hmac.New(sha1.New, []byte(c.secret))
	h.Write([]byte(text))
	r.Header.Set("Authorization", ossV1+" "+c.id+":"+base64.StdEncoding.EncodeToString(h.Sum(nil)))
}

func signOSS4(r *http.Request, c credentials, resource string) error {
	scope, ok := ossScope(r)
	if !ok {
		return errUnsigned
	}
	_, headers := signedHeaders(r.Header, strings.TrimSpace, "x-oss-", "content-type", "content-md5")
	canonical := strings.Join([]string{
		r.Method, escape(resource, true), ossQuery(r.URL.RawQuery), headers, "", r.Header.Get("X-Oss-Content-Sha256"),
	}, "\n")
	sum := sha256.Sum256([]byte(canonical))
	text := strings.Join([]string{ossV4, r.Header.Get("X-Oss-Date"), scope, hex.EncodeToString(sum[:])}, "\n")
	key := []byte("aliyun_v4" + c.secret)
	for _, part := range strings.Split(scope, "/") {
		key = mac(key, part)
	}
	r.Header.Set("Authorization", fmt.Sprintf("%s Credential=%s/%s,Signature=%s", ossV4, c.id, scope, hex.EncodeToString(mac(key, text))))
	return nil
}

// ossScope is what a request was signed for: date/region/oss/aliyun_v4_request.
func ossScope(r *http.Request) (string, bool) {
	rest, ok := strings.CutPrefix(r.Header.Get("Authorization"), ossV4+" Credential=")
	credential, _, ended := strings.Cut(rest, ",")
	_, scope, scoped := strings.Cut(credential, "/")
	return scope, ok && ended && scoped && strings.Count(scope, "/") == 3 && r.Header.Get("X-Oss-Date") != "" && r.Header.Get("X-Oss-Content-Sha256") != ""
}

// ossQuery differs from the other version 4 in what has no value.
func ossQuery(raw string) string {
	var pairs []string
	for _, pair := range strings.Split(canonicalQuery(raw), "&") {
		pairs = append(pairs, strings.TrimSuffix(pair, "="))
	}
	return strings.Join(pairs, "&")
}

// signedHeaders are those whose name begins with prefix or is one of others, with their values as clean makes them.
func signedHeaders(h http.Header, clean func(string) string, prefix string, others ...string) (names, lines string) {
	all := map[string]string{}
	for name, values := range h {
		lower := strings.ToLower(name)
		if !strings.HasPrefix(lower, prefix) && !slices.Contains(others, lower) {
			continue
		}
		trimmed := make([]string, len(values))
		for i, v := range values {
			trimmed[i] = clean(v)
		}
		all[lower] = strings.Join(trimmed, ",")
	}
	return headerLines(all)
}
