// Package e2b speaks E2B's REST API to stock SDKs: it decodes requests into the gateway's use cases and renders what they
// answer. It decides nothing about sandboxes or volumes, knows no backend, and does not carry the sandboxes' own traffic.
package e2b

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
	"k8s.io/utils/clock"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// Service is what the dialect needs of the gateway.
type Service interface {
	Limits() gateway.Limits
	MaxMounts() int
	Check(ctx context.Context, c warmpool.Claim) error
	Create(ctx context.Context, c warmpool.Claim) (warmpool.Sandbox, error)
	Get(ctx context.Context, p warmpool.Principal, id warmpool.ID) (warmpool.Sandbox, error)
	Mount(ctx context.Context, p warmpool.Principal, id warmpool.ID, spec mount.Spec) (warmpool.MountStatus, bool, error)
	CheckMount(ctx context.Context, p warmpool.Principal, id warmpool.ID, spec mount.Spec) error
	Mounted(ctx context.Context, p warmpool.Principal, id warmpool.ID, mountID string) (warmpool.Sandbox, warmpool.MountStatus, error)
	Unmount(ctx context.Context, p warmpool.Principal, id warmpool.ID, mountID string, force bool) (lossy bool, err error)
	List(ctx context.Context, p warmpool.Principal, q gateway.Query) (gateway.Page, error)
	Connect(ctx context.Context, p warmpool.Principal, id warmpool.ID, timeout time.Duration) (warmpool.Sandbox, error)
	SetTimeout(ctx context.Context, p warmpool.Principal, id warmpool.ID, timeout time.Duration) error
	Refresh(ctx context.Context, p warmpool.Principal, id warmpool.ID, d time.Duration) error
	Kill(ctx context.Context, p warmpool.Principal, id warmpool.ID) error
	Usage(ctx context.Context, p warmpool.Principal, id warmpool.ID) ([]warmpool.Usage, error)
	Template(ctx context.Context, name string) (warmpool.Template, error)
	Templates(ctx context.Context) ([]warmpool.Template, error)
}

var _ Service = (*gateway.Service)(nil)

// Authenticator tells whose request it is; false for a missing or unknown key.
type Authenticator interface {
	Authenticate(r *http.Request) (warmpool.Principal, bool)
}

// Config is how the dialect presents the installation.
type Config struct {
	// Domain is answered with every sandbox: SDKs build the host names of its ports from it, "<port>-<id>.<domain>". It may
	// carry a port. Empty means localhost with the port that the request came in on, which resolves to this machine.
	Domain string
	// Logger is slog's default when nil.
	Logger *slog.Logger
	// Clock is the real one when nil.
	Clock clock.PassiveClock
	// BodyTime is how long a request's body may take to arrive; 0 means DefaultBodyTime.
	BodyTime time.Duration
}

// DefaultBodyTime is ample for 1 MiB.
const DefaultBodyTime = 30 * time.Second

// The server-side defaults of a sandbox's timeout; the two generations of the API differ.
const (
	timeoutV1 = 15 * time.Second
	timeoutV2 = 300 * time.Second
)

type server struct {
	service  Service
	auth     Authenticator
	domain   string
	logger   *slog.Logger
	clock    clock.PassiveClock
	bodyTime time.Duration
}

// New makes the handler of the REST API.
func New(service Service, auth Authenticator, c Config) (http.Handler, error) {
	if service == nil || auth == nil {
		return nil, errors.New("e2b: a Service and an Authenticator are required")
	}
	s := &server{
		service: service, auth: auth, domain: c.Domain, logger: c.Logger, clock: c.Clock, bodyTime: cmp.Or(c.BodyTime, DefaultBodyTime),
	}
	if s.logger == nil {
		s.logger = slog.Default()
	}
	if s.clock == nil {
		s.clock = clock.RealClock{}
	}
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.HTTPErrorHandler = s.answerError
	e.Use(s.observe, s.hurried, s.recovered, exact)
	e.GET("/health", s.health)
	e.HEAD("/health", s.health)
	for _, r := range s.routes() {
		e.Add(r.method, r.path, r.handler, s.authenticated, readable)
	}
	for _, r := range unsupported {
		e.Add(r.method, r.path, refuse(r.what), s.authenticated)
	}
	return e, nil
}

type route struct {
	method, path string
	handler      echo.HandlerFunc
}

func (s *server) routes() []route {
	return []route{
		{http.MethodPost, "/sandboxes", s.create(timeoutV1)},
		{http.MethodPost, "/v2/sandboxes", s.create(timeoutV2)},
		{http.MethodGet, "/sandboxes", s.listRunning},
		{http.MethodGet, "/v2/sandboxes", s.list},
		{http.MethodGet, "/sandboxes/metrics", s.metricsOfMany},
		{http.MethodGet, "/sandboxes/:id", s.get},
		{http.MethodDelete, "/sandboxes/:id", s.kill},
		{http.MethodPost, "/sandboxes/:id/connect", s.connect(timeoutV1, true)},
		{http.MethodPost, "/v2/sandboxes/:id/connect", s.connect(timeoutV2, false)},
		{http.MethodPost, "/sandboxes/:id/resume", s.resume},
		{http.MethodPost, "/sandboxes/:id/timeout", s.setTimeout},
		{http.MethodPost, "/sandboxes/:id/refreshes", s.refresh},
		{http.MethodGet, "/sandboxes/:id/metrics", s.metrics},
		{http.MethodGet, "/sandboxes/:id/mounts", s.mounts},
		{http.MethodPost, "/sandboxes/:id/mounts", s.mount},
		{http.MethodGet, "/sandboxes/:id/mounts/:mount", s.mounted},
		{http.MethodDelete, "/sandboxes/:id/mounts/:mount", s.unmount},
		{http.MethodGet, "/templates", s.templates},
		{http.MethodGet, "/v2/templates", s.templatePages},
		{http.MethodGet, "/templates/:template", s.template},
		{http.MethodGet, "/templates/aliases/:alias", s.alias},
	}
}

// unsupported are the routes of E2B's API that are known and not served.
var unsupported = []struct{ method, path, what string }{
	{http.MethodPost, "/sandboxes/:id/pause", "pausing sandboxes"},
	{http.MethodPost, "/sandboxes/:id/fork", "forking sandboxes"},
	{http.MethodPost, "/sandboxes/:id/snapshots", "snapshots"},
	{http.MethodPut, "/sandboxes/:id/network", "changing a sandbox's network"},
	{http.MethodGet, "/sandboxes/:id/logs", "logs of sandboxes"},
	{http.MethodGet, "/v2/sandboxes/:id/logs", "logs of sandboxes"},
	{http.MethodGet, "/snapshots", "snapshots"},
	{http.MethodGet, "/volumes", "E2B's own volumes (mount PersistentVolumes by name instead)"},
	{http.MethodPost, "/volumes", "E2B's own volumes (mount PersistentVolumes by name instead)"},
	{http.MethodGet, "/volumes/:volume", "E2B's own volumes (mount PersistentVolumes by name instead)"},
	{http.MethodDelete, "/volumes/:volume", "E2B's own volumes (mount PersistentVolumes by name instead)"},
	{http.MethodGet, "/volumecontent/:volume/path", "files of E2B's own volumes"},
	{http.MethodPatch, "/volumecontent/:volume/path", "files of E2B's own volumes"},
	{http.MethodDelete, "/volumecontent/:volume/path", "files of E2B's own volumes"},
	{http.MethodGet, "/volumecontent/:volume/dir", "files of E2B's own volumes"},
	{http.MethodPost, "/volumecontent/:volume/dir", "files of E2B's own volumes"},
	{http.MethodGet, "/volumecontent/:volume/file", "files of E2B's own volumes"},
	{http.MethodPut, "/volumecontent/:volume/file", "files of E2B's own volumes"},
	{http.MethodGet, "/secrets", "secrets"},
	{http.MethodPost, "/secrets", "secrets"},
	{http.MethodGet, "/secrets/:secret", "secrets"},
	{http.MethodPost, "/secrets/:secret", "secrets"},
	{http.MethodDelete, "/secrets/:secret", "secrets"},
	{http.MethodGet, "/default-templates", "default templates"},
	{http.MethodPost, "/templates", "building templates"},
	{http.MethodPost, "/v2/templates", "building templates"},
	{http.MethodPost, "/v3/templates", "building templates"},
	{http.MethodPost, "/templates/:template", "building templates"},
	{http.MethodPatch, "/templates/:template", "changing templates"},
	{http.MethodPatch, "/v2/templates/:template", "changing templates"},
	{http.MethodDelete, "/templates/:template", "deleting templates and snapshots"},
	{http.MethodGet, "/templates/:template/files/:hash", "building templates"},
	{http.MethodPost, "/templates/:template/builds/:build", "building templates"},
	{http.MethodPost, "/v2/templates/:template/builds/:build", "building templates"},
	{http.MethodGet, "/templates/:template/builds/:build/status", "building templates"},
	{http.MethodGet, "/templates/:template/builds/:build/logs", "building templates"},
	{http.MethodPost, "/templates/tags", "template tags"},
	{http.MethodDelete, "/templates/tags", "template tags"},
	{http.MethodGet, "/templates/:template/tags", "template tags"},
	{http.MethodGet, "/templates/:template/tags/count", "template tags"},
	{http.MethodGet, "/templates/:template/tags/exists", "template tags"},
	{http.MethodGet, "/templates/:template/tags/groups", "template tags"},
	{http.MethodGet, "/templates/:template/tags/:tag/assignments", "template tags"},
	{http.MethodGet, "/teams", "teams"},
	{http.MethodGet, "/teams/:team/metrics", "teams"},
	{http.MethodGet, "/teams/:team/metrics/max", "teams"},
	{http.MethodGet, "/api-keys", "API keys over the API"},
	{http.MethodPost, "/api-keys", "API keys over the API"},
	{http.MethodPatch, "/api-keys/:key", "API keys over the API"},
	{http.MethodDelete, "/api-keys/:key", "API keys over the API"},
	{http.MethodPost, "/access-tokens", "access tokens"},
	{http.MethodDelete, "/access-tokens/:token", "access tokens"},
	{http.MethodGet, "/nodes", "nodes over the API"},
	{http.MethodGet, "/nodes/:node", "nodes over the API"},
	{http.MethodPost, "/nodes/:node", "nodes over the API"},
}

func refuse(what string) echo.HandlerFunc {
	return func(echo.Context) error {
		return warmpool.Errorf(warmpool.Unsupported, "this gateway does not support %s", what)
	}
}

func (s *server) health(c echo.Context) error { return c.NoContent(http.StatusNoContent) }
