package oss

import (
	"net/http"
	"net/url"
	"strings"
)

// confine keeps a request within the prefix, and answers in the store's place what is outside. A client may begin with a look at the whole
// bucket, which a tenant's credentials do not allow: it gets to see the prefix for it.
func (o origin) confine(r *http.Request) *http.Response {
	if o.Prefix == "" {
		return nil
	}
	key, ok := o.key(r)
	switch {
	case !ok:
		return answer(r, http.StatusForbidden)
	case key == "" && r.Method == http.MethodGet:
		return o.list(r)
	case key == "" || !o.holds(key):
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			return answer(r, http.StatusNotFound) // clients ask for other forms of a directory's name beside it
		}
		return answer(r, http.StatusForbidden)
	}
	for _, name := range []string{"X-Amz-Copy-Source", "X-Oss-Copy-Source"} {
		if from := r.Header.Values(name); len(from) > 1 || len(from) == 1 && !o.source(from[0]) {
			return answer(r, http.StatusForbidden)
		}
	}
	if r.Header.Get("X-Oss-Symlink-Target") != "" { // the store would follow it, out of the prefix; clients keep links in other ways
		return answer(r, http.StatusForbidden)
	}
	return nil
}

// key is the name of the object that a request is about, "" for the bucket.
func (o origin) key(r *http.Request) (string, bool) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	if r.Host == o.Bucket+"."+o.Host {
		return path, true
	}
	bucket, key, _ := strings.Cut(path, "/")
	return key, bucket == o.Bucket
}

// holds says whether an object is the prefix's directory or in it. A store that took dots for directories would leave it.
func (o origin) holds(key string) bool {
	for _, part := range strings.Split(key, "/") {
		if part == "." || part == ".." {
			return false
		}
	}
	return key == o.Prefix || strings.HasPrefix(key, o.Prefix+"/")
}

// source is holds for what is copied, in the form /bucket/key.
func (o origin) source(from string) bool {
	path, err := url.PathUnescape(from)
	key, ours := strings.CutPrefix(strings.TrimPrefix(path, "/"), o.Bucket+"/")
	key, _, _ = strings.Cut(key, "?")
	return err == nil && ours && o.holds(key)
}

// list lets lists of the prefix through, and makes one of it of the look at the whole bucket.
func (o origin) list(r *http.Request) *http.Response {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return answer(r, http.StatusForbidden)
	}
	for name := range q {
		switch name {
		case "list-type", "prefix", "delimiter", "marker", "max-keys", "continuation-token", "start-after", "encoding-type", "fetch-owner":
		default:
			return answer(r, http.StatusForbidden) // a property of the bucket
		}
	}
	switch prefix := q["prefix"]; {
	case len(prefix) == 0:
		q.Set("prefix", o.Prefix+"/")
		q.Set("max-keys", "1")
		r.URL.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	case len(prefix) > 1 || !strings.HasPrefix(prefix[0], o.Prefix+"/"):
		return answer(r, http.StatusForbidden)
	}
	return nil
}

func answer(r *http.Request, status int) *http.Response {
	if r.Body != nil {
		_ = r.Body.Close()
	}
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody, Request: r,
	}
}
