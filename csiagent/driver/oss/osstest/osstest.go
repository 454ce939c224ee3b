// Package osstest is an object store for tests that speaks OSS. It verifies OSS's own signatures, which S3 servers do not know, and has an S3
// server behind it that keeps the objects. Of OSS's own operations it knows those that S3 has too. It does not know who asks it.
package osstest

import (
	"bytes"
	"encoding/xml"
	"io"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Key is what a client signs with.
type Key struct {
	// ID and Secret are an access key; Token is what must come with it, if anything.
	ID, Secret, Token string
	// Prefix is all of its bucket that the key is good for; everything when it is empty.
	Prefix string
}

// Store verifies what is asked and passes it on. It is an http.Handler.
type Store struct {
	to             *url.URL
	access, secret string
	now            func() time.Time
	proxy          *httputil.ReverseProxy

	mu      sync.Mutex
	keys    map[string]Key
	asked   map[string]int
	refused []string
}

var _ http.Handler = (*Store)(nil)

// New returns a store that keeps its objects in the S3 server at to, whose owner's key is given. It admits nobody yet.
func New(to *url.URL, access, secret string) *Store {
	s := &Store{to: to, access: access, secret: secret, now: time.Now, keys: map[string]Key{}, asked: map[string]int{}}
	s.proxy = &httputil.ReverseProxy{Rewrite: s.rewrite, ModifyResponse: answer}
	return s
}

// Admit lets a key in.
func (s *Store) Admit(k Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[k.ID] = k
}

// Revoke lets it in no more.
func (s *Store) Revoke(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, id)
}

// Asked is how many requests a key was let in with.
func (s *Store) Asked(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[id]
}

// Refused are the requests that were not let in, each with the code of its refusal.
func (s *Store) Refused() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.refused)
}

func (s *Store) key(id string) (Key, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.keys[id]
	return k, ok
}

// ServeHTTP implements http.Handler.
func (s *Store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	code := s.verify(r)
	s.mu.Lock()
	if code == "" {
		s.asked[keyID(r)]++
	} else {
		s.refused = append(s.refused, code+" "+r.Method+" "+r.URL.Path)
	}
	s.mu.Unlock()
	if code == "" {
		s.proxy.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(http.StatusForbidden)
	_ = xml.NewEncoder(w).Encode(struct {
		XMLName       xml.Name `xml:"Error"`
		Code, Message string
	}{Code: code, Message: "refused: " + code})
}

// place is the bucket and the object that a request is about: where the host is no name with the bucket in it, the path begins with the bucket.
func place(r *http.Request) (bucket, object string) {
	u := url.URL{Host: r.Host}
	path := strings.TrimPrefix(r.URL.Path, "/")
	label, _, dotted := strings.Cut(u.Hostname(), ".")
	if _, err := netip.ParseAddr(u.Hostname()); err == nil || !dotted {
		bucket, object, _ = strings.Cut(path, "/")
		return bucket, object
	}
	return label, path
}

const ossPrefix, s3Prefix = "X-Oss-", "X-Amz-"

// rename gives headers the names of the other dialect.
func rename(h http.Header, from, to string) {
	for _, name := range slices.Collect(maps.Keys(h)) {
		if rest, ok := strings.CutPrefix(name, from); ok {
			h[to+rest] = h[name]
			delete(h, name)
		}
	}
}

// rewrite turns a verified request into one for the S3 server, with its owner's signature; what nobody has signed stays so.
func (s *Store) rewrite(r *httputil.ProxyRequest) {
	bucket, object := place(r.In)
	r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = s.to.Scheme, s.to.Host, s.to.Host
	r.Out.URL.Path = "/" + bucket + "/" + object
	r.Out.URL.RawPath = encode(r.Out.URL.Path, true)
	r.Out.URL.RawQuery = query(r.In.URL.RawQuery, true)
	for _, name := range []string{"Authorization", "Date", "X-Oss-Date", "X-Oss-Security-Token", "X-Oss-Content-Sha256", "X-Oss-Range-Behavior"} {
		r.Out.Header.Del(name)
	}
	rename(r.Out.Header, ossPrefix, s3Prefix)
	if r.In.Header.Get("Authorization") != "" {
		s.signS3(r.Out)
	}
}

// namespace is in S3's documents. OSS has none in those of lists and uploads, and its clients find nothing in one that has.
const namespace = ` xmlns="http://s3.amazonaws.com/doc/2006-03-01/"`

// answer turns S3's answer into one of OSS. The content of objects is nobody's business.
func answer(r *http.Response) error {
	rename(r.Header, s3Prefix, ossPrefix)
	_, object, _ := strings.Cut(strings.TrimPrefix(r.Request.URL.Path, "/"), "/")
	if object != "" && r.Request.Method != http.MethodPost || r.Request.Method == http.MethodHead {
		return nil
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	b = bytes.ReplaceAll(b, []byte(namespace), nil)
	r.Body = io.NopCloser(bytes.NewReader(b))
	r.ContentLength = int64(len(b))
	r.Header.Set("Content-Length", strconv.Itoa(len(b)))
	return nil
}

// Behind is where the S3 server is.
func (s *Store) Behind() string { return s.to.String() }
