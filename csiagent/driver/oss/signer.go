package oss

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// signer stands between a client and its store. It dials in the client's place, so that the address which was looked at is the one that is
// connected to: the client would look the name up by itself, and may be told something else. And it signs what the client asks with the
// credentials of the moment. Neither s3fs nor ossfs takes others than those that it was started with; signed here, a request has one key or the other and
// never half of both, in files that are open as well as in others, and the client itself knows no secret at all. It listens in the
// client's room, at no address.
type signer struct {
	room   room
	origin origin
	server *http.Server
	// transport has the connections to the store.
	transport *http.Transport

	// untrusted says that the certificate which the store has shown last is one that this machine does not trust.
	untrusted atomic.Bool

	mu  sync.RWMutex
	now *generation
}

var errUntrusted = fmt.Errorf("%w: the object store's certificate is not trusted on this machine", mount.ErrInvalid)

// trouble implements holder: the client only knows that it was refused.
func (s *signer) trouble() error {
	if s.untrusted.Load() {
		return errUntrusted
	}
	return nil
}

// generation is one set of credentials with the requests that it has signed and that are not answered yet.
type generation struct {
	keys credentials
	busy sync.WaitGroup
}

// origin is where a signer's requests go.
type origin struct {
	Scheme string `json:"scheme"`
	Host   string `json:"host"`
	Bucket string `json:"bucket"`
	Prefix string `json:"prefix,omitempty"` // all that a client gets to see of the bucket
	// Unsigned says that requests go as the client makes them: signed by itself, or by nobody.
	Unsigned bool `json:"unsigned,omitempty"`
}

// kept is what a signer leaves in its client's room for the agent after it.
type kept struct {
	Origin  origin    `json:"origin"`
	ID      string    `json:"id"`
	Secret  string    `json:"secret"`
	Token   string    `json:"token"`
	Expires time.Time `json:"expires,omitzero"`
}

const (
	socketName = "s"
	keptName   = "keys"
	// proxyURL is where libcurl, and so s3fs and ossfs, connect to instead of the store.
	proxyURL = "socks5h://localhost" + roomAt + "/" + socketName
)

// newSigner serves the client that gets the room.
func newSigner(r room, to origin, keys credentials, dial dialFunc, logger *slog.Logger) (*signer, error) {
	s := &signer{room: r, origin: to, now: &generation{keys: keys}}
	if err := s.keep(keys); err != nil {
		return nil, err
	}
	_ = os.Remove(r.path(socketName)) // of an agent that has ended
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: r.path(socketName)})
	if err != nil {
		return nil, errors.New("listen for the FUSE client: " + plain(err))
	}
	listener.SetUnlinkOnClose(false) // by then another room may have the number that its path is made of
	s.transport = &http.Transport{
		DialContext: dial, DisableCompression: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: 30 * time.Second, TLSHandshakeTimeout: 5 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:   s.rewrite,
		Transport: roundTripper(s.send),
		ErrorLog:  log.New(discard{}, "", 0),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				logger.InfoContext(r.Context(), "object store did not answer", "host", to.Host, "error", err)
			}
			if untrusted := (*tls.CertificateVerificationError)(nil); errors.As(err, &untrusted) {
				s.untrusted.Store(true)
				w.WriteHeader(http.StatusBadRequest) // it would be the same again
				return
			}
			w.WriteHeader(http.StatusServiceUnavailable) // the client tries again
		},
	}
	s.server = &http.Server{Handler: proxy, ReadHeaderTimeout: 30 * time.Second, ErrorLog: log.New(discard{}, "", 0)}
	go func() { // ends with close
		_ = s.server.Serve(socks{listener})
		s.transport.CloseIdleConnections()
	}()
	return s, nil
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// resumeSigner serves the client of an earlier process, with what that one has left.
func resumeSigner(r room, dial dialFunc, logger *slog.Logger) (*signer, error) {
	b, err := os.ReadFile(r.path(keptName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoRoom
	}
	if err != nil {
		return nil, errors.New("read credentials: " + plain(err))
	}
	var k kept
	if err := json.Unmarshal(b, &k); err != nil {
		return nil, errors.New("read credentials: they are no JSON")
	}
	return newSigner(r, k.Origin, credentials{k.ID, k.Secret, k.Token, k.Expires}, dial, logger)
}

func (s *signer) keep(c credentials) error {
	b, err := json.Marshal(kept{s.origin, c.id, c.secret, c.token, c.expires})
	if err != nil {
		return err
	}
	return s.room.write(keptName, b)
}

// rewrite sends a request to the store, and to no place that its client names.
func (s *signer) rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme, r.Out.URL.Host = s.origin.Scheme, s.origin.Host
	r.Out.Host = s.origin.Host
	if r.In.Host == s.origin.Bucket+"."+s.origin.Host {
		r.Out.URL.Host, r.Out.Host = r.In.Host, r.In.Host
	}
}

func (s *signer) send(r *http.Request) (*http.Response, error) {
	s.mu.RLock()
	g := s.now
	g.busy.Add(1)
	s.mu.RUnlock()
	defer g.busy.Done() // with the answer's head: the store has looked at the signature
	if refusal := s.origin.confine(r); refusal != nil {
		return refusal, nil
	}
	if !s.origin.Unsigned {
		if err := s.origin.resign(r, g.keys); err != nil {
			return nil, err
		}
	}
	res, err := s.transport.RoundTrip(r)
	if err == nil {
		s.untrusted.Store(false)
	}
	return res, err
}

// settleTime is how long requests that were signed with earlier credentials may take to be answered.
const settleTime = 10 * time.Second

// replace makes c what is signed with from now on. It returns when the store has answered all that was signed with others: those can be
// revoked then.
func (s *signer) replace(ctx context.Context, c credentials) error {
	s.mu.Lock()
	if s.origin.Unsigned || s.now.keys == c {
		s.mu.Unlock()
		return nil
	}
	if err := s.keep(c); err != nil {
		s.mu.Unlock()
		return err
	}
	old := s.now
	s.now = &generation{keys: c}
	s.mu.Unlock()
	over := make(chan struct{})
	go func() { // ends with the last answer
		old.busy.Wait()
		close(over)
	}()
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("requests with the earlier credentials are not answered yet: %w", ctx.Err())
	}
}

func (s *signer) close() {
	_ = s.server.Close()
	s.room.close()
}

func originOf(v *volume) origin {
	return origin{Scheme: v.endpoint.Scheme, Host: v.endpoint.Host, Bucket: v.bucket, Prefix: strings.TrimPrefix(v.prefix, "/")}
}
