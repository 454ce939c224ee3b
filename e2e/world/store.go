package world

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Bucket is the one that the store has.
const Bucket = "sandgate"

// Store is versitygw on a directory: an S3 server that checks signatures.
type Store struct {
	// URL is its endpoint, Dir the directory below which a bucket's objects are files.
	URL, Dir string
	// Access and Secret are its root credentials, random in each run.
	Access, Secret string

	program *program
}

// StartStore runs versitygw, which lies at path, on dir, and makes the bucket. Crash ends it.
func StartStore(ctx context.Context, path, dir string) (*Store, error) {
	for _, part := range []string{"objects", "users"} {
		if err := os.MkdirAll(filepath.Join(dir, part), 0o700); err != nil {
			return nil, err
		}
	}
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	s := &Store{URL: "http://" + addr, Dir: dir, Access: "AK" + strings.ToUpper(random(9)), Secret: random(20)}
	s.program, err = launch(filepath.Join(dir, "store.log"),
		[]string{"ROOT_ACCESS_KEY_ID=" + s.Access, "ROOT_SECRET_ACCESS_KEY=" + s.Secret},
		path, "--port", addr, "--iam-dir", filepath.Join(dir, "users"), "posix", filepath.Join(dir, "objects"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := poll(ctx, s.program, func() bool { return s.call(ctx, http.MethodPut, "/"+Bucket, nil, io.Discard) == nil }); err != nil {
		return nil, fmt.Errorf("the object store does not get ready: %w\n%s", err, tail(filepath.Join(dir, "store.log")))
	}
	return s, nil
}

// As is the store for whoever has another key of it. A new key may do anything; Revoke takes it back.
func (s *Store) As(ctx context.Context) (*Store, error) {
	other := *s
	other.Access, other.Secret = "AK"+strings.ToUpper(random(9)), random(20)
	return &other, s.admin(ctx, "create-user", "--access", other.Access, "--secret", other.Secret, "--role", "admin")
}

// Revoke takes back a key that As has made.
func (s *Store) Revoke(ctx context.Context, other *Store) error {
	return s.admin(ctx, "delete-user", "--access", other.Access)
}

func (s *Store) admin(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, s.program.cmd.Path, append([]string{"admin", "--endpoint-url", s.URL}, args...)...)
	cmd.Env = append(os.Environ(), "ADMIN_ACCESS_KEY_ID="+s.Access, "ADMIN_SECRET_ACCESS_KEY="+s.Secret)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("store: %s: %w: %s", args[0], err, out)
	}
	return nil
}

// Object is one of the bucket's.
type Object struct {
	Key  string
	Size int64
}

// Objects lists the bucket below a prefix.
func (s *Store) Objects(ctx context.Context, prefix string) ([]Object, error) {
	var body strings.Builder
	query := url.Values{"list-type": {"2"}, "prefix": {prefix}}
	if err := s.call(ctx, http.MethodGet, "/"+Bucket, query, &body); err != nil {
		return nil, err
	}
	var list struct{ Contents []Object }
	return list.Contents, xml.Unmarshal([]byte(body.String()), &list)
}

// Read returns an object's content.
func (s *Store) Read(ctx context.Context, key string) (string, error) {
	var body strings.Builder
	err := s.call(ctx, http.MethodGet, "/"+Bucket+"/"+key, nil, &body)
	return body.String(), err
}

// Crash kills the store; it is not needed any more.
func (s *Store) Crash(ctx context.Context) error { return s.stop(ctx) }

func (s *Store) stop(ctx context.Context) error {
	if err := s.program.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = s.program.wait(ctx) // killed, as asked
	return nil
}

func (s *Store) call(ctx context.Context, method, path string, query url.Values, into io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, method, s.URL+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	s.sign(req, time.Now().UTC())
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s", method, path, res.Status)
	}
	_, err = io.Copy(into, res.Body)
	return err
}

// sign adds an AWS signature of version 4 for a request without a body.
func (s *Store) sign(req *http.Request, now time.Time) {
	stamp, day := now.Format("20060102T150405Z"), now.Format("20060102")
	empty := hexSum("")
	req.Header.Set("X-Amz-Date", stamp)
	req.Header.Set("X-Amz-Content-Sha256", empty)
	const signed = "host;x-amz-content-sha256;x-amz-date"
	headers := fmt.Sprintf("host:%s\nx-amz-content-sha256:%s\nx-amz-date:%s\n", req.URL.Host, empty, stamp)
	canonical := strings.Join([]string{req.Method, req.URL.EscapedPath(), req.URL.RawQuery, headers, signed, empty}, "\n")
	scope := day + "/us-east-1/s3/aws4_request"
	key := []byte("AWS4" + s.Secret)
	for _, part := range strings.Split(scope, "/") {
		key = mac(key, part)
	}
	signature := mac(key, strings.Join([]string{"AWS4-HMAC-SHA256", stamp, scope, hexSum(canonical)}, "\n"))
	req.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%x", s.Access, scope, signed, signature))
}

func hexSum(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
