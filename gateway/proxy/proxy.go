package proxy

import (
	"context"
	"crypto/rand"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sandgate-dev/sandgate/warmpool"
)

// Resolver finds the way to a sandbox. NotFound for unknown, unclaimed and ended ones.
type Resolver interface {
	Route(ctx context.Context, id warmpool.ID) (warmpool.Route, error)
}

// DefaultMaxRequests is how many requests and upgraded connections a sandbox may have open when nobody says otherwise.
const DefaultMaxRequests = 1000

// Config is what a Proxy needs.
type Config struct {
	Resolver Resolver // required
	// Sandboxes finds the sandbox of signed file URLs on hosts that name none; nil: they are refused.
	Sandboxes Lister
	// Domains under which `port-id` hosts are sandboxes, `sandbox` is shared and `api` is the API's.
	Domains []string
	// TrustedHosts are further names on which the E2b-Sandbox headers count, such as a Service's in a cluster.
	TrustedHosts []string
	// MaxRequests open at once for one sandbox; 0 means DefaultMaxRequests.
	MaxRequests int
	Log         *slog.Logger // required
}

// Proxy is the data plane as an http.Handler.
type Proxy struct {
	Config
	hosts   hosts
	buffers buffers
	errors  *log.Logger // of httputil, at debug: clients and sandboxes break connections all the time

	closed  chan struct{}
	watches sync.WaitGroup // of the goroutines that wait for a sandbox's end

	mu  sync.Mutex
	ups map[warmpool.ID]*upstream
}

// New makes a Proxy; Close ends it.
func New(c Config) (*Proxy, error) {
	if c.Resolver == nil || c.Log == nil {
		return nil, errors.New("proxy: Resolver and Log are required")
	}
	if c.MaxRequests <= 0 {
		c.MaxRequests = DefaultMaxRequests
	}
	return &Proxy{
		Config: c,
		hosts:  newHosts(c.Domains, c.TrustedHosts),
		errors: slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug),
		closed: make(chan struct{}),
		ups:    map[warmpool.ID]*upstream{},
	}, nil
}

// Close cuts all connections to sandboxes. Call it once, when the server no longer takes requests.
func (p *Proxy) Close() error {
	close(p.closed)
	p.watches.Wait()
	return nil
}

// Match says whether a request is for the data plane, on a port that serves the API as well.
func (p *Proxy) Match(r *http.Request) bool {
	if _, ok := r.Header[HeaderSandboxID]; ok {
		return true
	}
	name := hostname(r.Host)
	if label, ok := p.hosts.below(name); ok {
		return label != "api"
	}
	return p.hosts.shared(name) && signed(r)
}

// Or serves the data plane's requests and leaves all others to api.
func (p *Proxy) Or(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.Match(r) {
			p.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
}

// ServeHTTP carries one request to its sandbox.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := requestID(r)
	t, err := p.target(r)
	p.Log.Debug("data plane request", "request", id, "sandbox", t.id, "port", t.port, "method", r.Method, "path", r.URL.Path)
	refuse := func(a answer) {
		w.Header().Set("X-Request-Id", id)
		a.write(w, r)
	}
	if err != nil {
		w.Header().Set("X-Request-Id", id)
		p.refuseTarget(w, r, id, err)
		return
	}
	if t.port == EnvdPort && reserved(r.URL.Path) {
		refuse(reservedPath(t))
		return
	}
	up, err := p.upstream(r.Context(), t)
	if err != nil {
		refuse(p.unroutable(t, id, err))
		return
	}
	if !up.enter(p.MaxRequests) {
		refuse(tooMany(t))
		return
	}
	defer up.leave()
	p.forward(w, r, up, t, id)
}

// errSignature says that no live sandbox made a signature.
var errSignature = errors.New("invalid signature")

func (p *Proxy) target(r *http.Request) (target, error) {
	_, named := r.Header[HeaderSandboxID]
	if named || !p.hosts.shared(hostname(r.Host)) || !signed(r) {
		return p.hosts.target(r)
	}
	if p.Sandboxes == nil {
		return target{}, errHeaders
	}
	id, ok, err := signer(r.Context(), p.Sandboxes, r)
	if err != nil {
		return target{}, err
	}
	if !ok {
		return target{}, errSignature
	}
	return target{string(id), EnvdPort}, nil
}

func (p *Proxy) refuseTarget(w http.ResponseWriter, r *http.Request, request string, err error) {
	var foreign *warmpool.Error
	switch {
	case errors.Is(err, errSignature): // as the daemon says it
		answer{Message: "invalid signature", Code: http.StatusUnauthorized}.write(w, r)
	case errors.As(err, &foreign):
		p.unroutable(target{}, request, err).write(w, r)
	default:
		plain(w, http.StatusBadRequest, err.Error())
	}
}

// unroutable is the answer where there is no way to a sandbox.
func (p *Proxy) unroutable(t target, request string, err error) answer {
	var e *warmpool.Error
	code := warmpool.CodeOf(err)
	if code == warmpool.NotFound {
		return notFound(t)
	}
	p.Log.Warn("no way to a sandbox", "request", request, "sandbox", t.id, "error", err)
	status, known := map[warmpool.Code]int{
		warmpool.Denied: http.StatusForbidden, warmpool.Conflict: http.StatusConflict,
		warmpool.Exhausted: http.StatusTooManyRequests, warmpool.Unavailable: http.StatusServiceUnavailable,
	}[code]
	if !known || !errors.As(err, &e) {
		return answer{SandboxID: t.id, Message: "The sandbox cannot be reached at the moment", Code: http.StatusBadGateway}
	}
	return answer{SandboxID: t.id, Message: e.Message, Code: status}
}

// upstream is the way to a sandbox, made with the first request to it and dropped when it dies.
func (p *Proxy) upstream(ctx context.Context, t target) (*upstream, error) {
	id, ok := warmpool.ParseID(t.id)
	if !ok {
		return nil, warmpool.Errorf(warmpool.NotFound, "no sandbox %s", t.id)
	}
	p.mu.Lock()
	up := p.ups[id]
	p.mu.Unlock()
	if up != nil && !up.gone() {
		return up, nil
	}
	route, err := p.Resolver.Route(ctx, id)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if other := p.ups[id]; other != nil && !other.gone() {
		return other, nil
	}
	up = newUpstream(route)
	p.ups[id] = up
	p.watches.Go(func() { p.watch(id, up) })
	return up, nil
}

// watch cuts an upstream when its sandbox dies.
func (p *Proxy) watch(id warmpool.ID, up *upstream) {
	select {
	case <-up.route.Gone:
	case <-p.closed:
	}
	p.mu.Lock()
	if p.ups[id] == up {
		delete(p.ups, id)
	}
	p.mu.Unlock()
	up.cut()
}

func (p *Proxy) forward(w http.ResponseWriter, r *http.Request, up *upstream, t target, request string) {
	// Answers may begin before the request has ended, as terminals and uploads with progress do. HTTP/2 always allows it.
	_ = http.NewResponseController(w).EnableFullDuplex()
	w.Header()["Content-Type"] = nil // the sandbox's or none: nothing is guessed from the body
	rp := httputil.ReverseProxy{
		Transport:     up.transportTo(t.port),
		FlushInterval: -1,
		BufferPool:    &p.buffers,
		ErrorLog:      p.errors,
		Rewrite:       func(pr *httputil.ProxyRequest) { rewrite(pr, t) },
		ModifyResponse: func(res *http.Response) error {
			if res.Header.Get("X-Request-Id") == "" {
				res.Header.Set("X-Request-Id", request)
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			w.Header().Set("X-Request-Id", request)
			p.failed(w, r, up, t, err)
		},
	}
	r = guard(w, r)
	// With a duplex answer the server may only be left once the body is at its end or closed; otherwise it looks for the end
	// itself, too late, and meets its own background read.
	defer func() { _ = r.Body.Close() }()
	rp.ServeHTTP(w, r)
}

// rewrite makes the request that the sandbox gets: the client's, less what only the gateway may say.
func rewrite(pr *httputil.ProxyRequest, t target) {
	pr.Out.URL.Scheme = "http"
	pr.Out.URL.Host = net.JoinHostPort(t.id, strconv.Itoa(int(t.port)))
	pr.Out.URL.RawQuery = pr.In.URL.RawQuery // also what net/url cannot parse: it is the sandbox's to judge
	pr.Out.Host = pr.In.Host
	pr.Out.Trailer = pr.In.Trailer // filled in when the body has ended
	for name := range pr.Out.Header {
		if internal(name) {
			pr.Out.Header.Del(name)
		}
	}
}

// internal says whether a header is for the gateway or between our own parts, and never passed on from outside.
func internal(name string) bool {
	return name == HeaderSandboxID || name == HeaderSandboxPort || name == "Forwarded" || name == "X-Real-Ip" ||
		strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "X-Sandgate-")
}

// failed answers a request that got no answer from its sandbox.
func (p *Proxy) failed(w http.ResponseWriter, r *http.Request, up *upstream, t target, err error) {
	var dial *dialError
	switch {
	case r.Context().Err() != nil: // the client is gone
		panic(http.ErrAbortHandler)
	case up.gone():
		notFound(t).write(w, r)
	case errors.As(err, &dial):
		portClosed(t).write(w, r)
	default:
		p.Log.Debug("no answer from a sandbox", "request", w.Header().Get("X-Request-Id"), "sandbox", t.id, "port", t.port, "error", err)
		noAnswer(t).write(w, r)
	}
}

// reservedPaths of the daemon are called by the gateway only.
var reservedPaths = []string{"/init", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw", "/upgrade"}

// reserved says whether a router could take a path for a reserved one.
func reserved(p string) bool {
	return slices.Contains(reservedPaths, strings.ToLower(path.Clean("/"+p)))
}

var requestIDGrammar = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// requestID is the request's own id, or a new one.
func requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); requestIDGrammar.MatchString(id) {
		return id
	}
	return rand.Text()
}

// buffers are those that bodies are copied with.
type buffers struct{ pool sync.Pool }

const bufferSize = 64 << 10

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return buf[:]
	}
	return make([]byte, bufferSize)
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(buf []byte) { b.pool.Put((*[bufferSize]byte)(buf)) }

// Server is an http.Server for a handler that has the data plane in it: HTTP/1.1 and HTTP/2 without TLS on one port, and no
// limit on how long a request or an answer may take.
func Server(handler http.Handler, logger *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           handler,
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 1000, MaxReceiveBufferPerStream: 1 << 20, MaxReceiveBufferPerConnection: 8 << 20},
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       640 * time.Second, // above the 600 s for which clients and load balancers keep connections
		MaxHeaderBytes:    256 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}
