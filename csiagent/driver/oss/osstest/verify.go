package osstest

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // what version 1 of the signature is made of
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// The two versions of OSS's signature in a header, as the store's documentation has them.
const v1, v4 = "OSS ", "OSS4-HMAC-SHA256 "

// skew is how far a request's date may be from the store's clock.
const skew = 15 * time.Minute

const timestamp = "20060102T150405Z"

// verify returns the code of the refusal, "" for a request that may pass.
func (s *Store) verify(r *http.Request) string {
	text := r.Header.Get("Authorization")
	if text == "" {
		return "" // nobody's; the S3 server knows what everybody may
	}
	k, known := s.key(keyID(r))
	if !known {
		return "InvalidAccessKeyId"
	}
	if r.Header.Get("X-Oss-Security-Token") != k.Token {
		return "InvalidSecurityToken"
	}
	var signed string
	var at time.Time
	var err error
	if strings.HasPrefix(text, v1) {
		at, err = http.ParseTime(date(r))
		signed = v1 + k.ID + ":" + signatureV1(r, k.Secret)
	} else {
		at, err = time.Parse(timestamp, r.Header.Get("X-Oss-Date"))
		signed, text = signatureV4(r, k.Secret), parameter(text, "Signature")
		if scope := strings.Split(parameter(r.Header.Get("Authorization"), "Credential"), "/"); err == nil && (len(scope) != 5 || scope[1] != at.Format("20060102")) {
			return "InvalidArgument"
		}
	}
	switch {
	case err != nil || at.Sub(s.now()).Abs() > skew:
		return "RequestTimeTooSkewed"
	case !hmac.Equal([]byte(signed), []byte(text)):
		return "SignatureDoesNotMatch"
	case !k.allows(r):
		return "AccessDenied"
	}
	return ""
}

// keyID is the one that a request says it is signed with.
func keyID(r *http.Request) string {
	text := r.Header.Get("Authorization")
	if rest, ok := strings.CutPrefix(text, v1); ok {
		id, _, _ := strings.Cut(rest, ":")
		return id
	}
	id, _, _ := strings.Cut(parameter(text, "Credential"), "/")
	return id
}

// parameter is one of the name=value of a header of version 4.
func parameter(text, name string) string {
	rest, ok := strings.CutPrefix(text, v4)
	if !ok {
		return ""
	}
	for _, item := range strings.Split(rest, ",") {
		if value, ok := strings.CutPrefix(strings.TrimSpace(item), name+"="); ok {
			return value
		}
	}
	return ""
}

// allows looks at the key's prefix.
func (k Key) allows(r *http.Request) bool {
	_, object := place(r)
	if object == "" && r.Method == http.MethodGet {
		object = r.URL.Query().Get("prefix")
	}
	from, _ := url.PathUnescape(r.Header.Get("X-Oss-Copy-Source"))
	bucket, _ := place(r)
	return strings.HasPrefix(object, k.Prefix) && (from == "" || strings.HasPrefix(from, "/"+bucket+"/"+k.Prefix))
}

// signedV1 are the parameters that version 1 takes for a part of the resource.
var signedV1 = []string{
	"acl", "append", "bucketInfo", "callback", "callback-var", "cloudboxes", "continuation-token", "delete", "location", "objectMeta", "partNumber",
	"position", "regionList", "resourceGroup", "response-cache-control", "response-content-disposition", "response-content-encoding",
	"response-content-language", "response-content-type", "response-expires", "restore", "security-token", "sequential", "stat", "symlink",
	"tagging", "uploadId", "uploads", "versionId", "versioning", "versions",
}

func date(r *http.Request) string {
	if at := r.Header.Get("X-Oss-Date"); at != "" {
		return at
	}
	return r.Header.Get("Date")
}

func signatureV1(r *http.Request, secret string) string {
	bucket, object := place(r)
	resource := "/"
	if bucket != "" {
		resource += bucket + "/" + object
	}
	values, separator := r.URL.Query(), "?"
	names := make([]string, 0, len(values))
	for name := range values {
		if slices.Contains(signedV1, name) || strings.HasPrefix(name, "x-oss-") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		resource += separator + name
		if v := values.Get(name); v != "" {
			resource += "=" + v
		}
		separator = "&"
	}
	text := r.Method + "\n" + r.Header.Get("Content-MD5") + "\n" + r.Header.Get("Content-Type") + "\n" + date(r) + "\n" +
		lines(r.Header, func(name string) bool { return strings.HasPrefix(name, "x-oss-") }) + resource
	h := hmac.New(sha1.New, []byte(secret))
	h.Write([]byte(text))
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

func signatureV4(r *http.Request, secret string) string {
	text := r.Header.Get("Authorization")
	_, scope, _ := strings.Cut(parameter(text, "Credential"), "/")
	var more []string
	if list := parameter(text, "AdditionalHeaders"); list != "" {
		more = strings.Split(list, ";")
	}
	bucket, object := place(r)
	headers := lines(r.Header, func(name string) bool {
		return strings.HasPrefix(name, "x-oss-") || name == "content-type" || name == "content-md5" || slices.Contains(more, name)
	})
	canonical := strings.Join([]string{
		r.Method, encode("/"+bucket+"/"+object, true), query(r.URL.RawQuery, false), headers, strings.Join(more, ";"), r.Header.Get("X-Oss-Content-Sha256"),
	}, "\n")
	return chain("aliyun_v4"+secret, scope, "OSS4-HMAC-SHA256\n"+r.Header.Get("X-Oss-Date")+"\n"+scope+"\n"+sum(canonical))
}

// lines are the chosen headers by their names in small letters, in order.
func lines(h http.Header, chosen func(name string) bool) string {
	var out []string
	for name, values := range h {
		if lower := strings.ToLower(name); chosen(lower) {
			out = append(out, lower+":"+strings.TrimSpace(strings.Join(values, ","))+"\n")
		}
	}
	slices.Sort(out)
	return strings.Join(out, "")
}

// query puts parameters in order; S3 wants a = behind those without a value, OSS none.
func query(raw string, equals bool) string {
	if raw == "" {
		return ""
	}
	var out []string
	for _, pair := range strings.Split(raw, "&") {
		name, value, _ := strings.Cut(pair, "=")
		name, _ = url.QueryUnescape(name)
		value, _ = url.QueryUnescape(value)
		item := encode(name, false)
		if value != "" || equals {
			item += "=" + encode(value, false)
		}
		out = append(out, item)
	}
	slices.Sort(out)
	return strings.Join(out, "&")
}

func encode(s string, path bool) string {
	s = strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
	if path {
		s = strings.ReplaceAll(s, "%2F", "/")
	}
	return s
}

func sum(text string) string {
	b := sha256.Sum256([]byte(text))
	return hex.EncodeToString(b[:])
}

// chain derives a key from a scope, and signs with it.
func chain(secret, scope, text string) string {
	key := []byte(secret)
	for _, part := range append(strings.Split(scope, "/"), text) {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(part))
		key = h.Sum(nil)
	}
	return hex.EncodeToString(key)
}

// signS3 adds the S3 server's signature, over everything but the content.
func (s *Store) signS3(r *http.Request) {
	now := s.now().UTC()
	scope := now.Format("20060102") + "/us-east-1/s3/aws4_request"
	r.Header.Set("X-Amz-Date", now.Format(timestamp))
	r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
	h := http.Header{"Host": {r.Host}}
	for name, values := range r.Header {
		if strings.HasPrefix(name, s3Prefix) {
			h[name] = values
		}
	}
	var names []string
	for name := range h {
		names = append(names, strings.ToLower(name))
	}
	slices.Sort(names)
	list := strings.Join(names, ";")
	canonical := strings.Join([]string{
		r.Method, r.URL.RawPath, r.URL.RawQuery, lines(h, func(string) bool { return true }), list, "UNSIGNED-PAYLOAD",
	}, "\n")
	r.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s", s.access, scope, list,
		chain("AWS4"+s.secret, scope, "AWS4-HMAC-SHA256\n"+now.Format(timestamp)+"\n"+scope+"\n"+sum(canonical))))
}
