package e2b

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// Keys of what the middleware leaves in an echo.Context.
const (
	principalKey = "principal"
	sandboxKey   = "sandbox"
	causeKey     = "cause"
)

var requestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// observe names the request in its answer and its log line. The caller's own name for it is kept where it is sane.
func (s *server) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		begin := s.clock.Now()
		id := c.Request().Header.Get(echo.HeaderXRequestID)
		if !requestID.MatchString(id) {
			var raw [12]byte
			_, _ = rand.Read(raw[:]) // never fails (crypto/rand)
			id = hex.EncodeToString(raw[:])
		}
		ctx := gateway.WithRequestID(c.Request().Context(), id)
		c.SetRequest(c.Request().WithContext(ctx))
		c.Response().Header().Set(echo.HeaderXRequestID, id)
		c.Response().Header().Set("X-E2B-Trace-ID", id)

		if err := next(c); err != nil {
			c.Error(err)
		}
		level := slog.LevelInfo
		attrs := []slog.Attr{
			slog.String("request", id),
			slog.String("method", c.Request().Method),
			slog.String("route", c.Path()),
			slog.Int("status", c.Response().Status),
			slog.Duration("duration", s.clock.Since(begin)),
		}
		if p, ok := c.Get(principalKey).(warmpool.Principal); ok {
			attrs = append(attrs, slog.String("team", p.Team), slog.String("key", p.Key))
		}
		if sandbox, ok := c.Get(sandboxKey).(warmpool.ID); ok {
			attrs = append(attrs, slog.String("sandbox", string(sandbox)))
		}
		switch c.Response().Status {
		case http.StatusInternalServerError:
			level = slog.LevelError
		case http.StatusServiceUnavailable, http.StatusTooManyRequests:
			level = slog.LevelWarn
		}
		if cause := worthLogging(c); cause != nil {
			attrs = append(attrs, slog.Any("error", cause))
		}
		s.logger.LogAttrs(ctx, level, "request", attrs...)
		return nil
	}
}

// worthLogging is the error behind an answer where the answer does not tell all of it. What merely refuses a request stays
// out of the log: its text quotes the request.
func worthLogging(c echo.Context) error {
	cause, _ := c.Get(causeKey).(error)
	if c.Response().Status == http.StatusInternalServerError {
		return cause
	}
	var coded *warmpool.Error
	if errors.As(cause, &coded) && coded.Err != nil && len(asFaults(cause)) == 0 {
		return cause
	}
	return nil
}

// exact refuses paths below a route: echo lets the last parameter of a route swallow every further segment.
func exact(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if path := c.Path(); path != "" && strings.Count(path, "/") != strings.Count(echo.GetPath(c.Request()), "/") {
			return echo.ErrNotFound
		}
		return next(c)
	}
}

// hurried gives a body bodyTime to arrive. The server has no deadlines, since sandboxes' streams share its port, and reads what a
// handler has left of a body, so that also a caller without a key could hold a connection for ever.
func (s *server) hurried(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if c.Request().ContentLength != 0 {
			_ = http.NewResponseController(c.Response()).SetReadDeadline(time.Now().Add(s.bodyTime)) // a recorder has no connection
		}
		return next(c)
	}
}

// readable refuses a query of which a part cannot be read: left out, a filter would choose more than was meant.
func readable(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if _, err := url.ParseQuery(c.Request().URL.RawQuery); err != nil {
			return warmpool.Errorf(warmpool.Invalid, "the query cannot be read: its keys and values must be escaped, with & between them")
		}
		return next(c)
	}
}

// recovered makes a panic one more internal error.
func (s *server) recovered(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if e, ok := v.(error); ok && errors.Is(e, http.ErrAbortHandler) {
				panic(v)
			}
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}()
		return next(c)
	}
}

// authenticated lets only callers with a known key through.
func (s *server) authenticated(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		p, ok := s.auth.Authenticate(c.Request())
		if !ok {
			return echo.NewHTTPError(http.StatusUnauthorized, "a valid API key is required: send it in the X-API-Key header")
		}
		c.Set(principalKey, p)
		return next(c)
	}
}

// principal is whose request it is, as authenticated has found it.
func principal(c echo.Context) warmpool.Principal {
	p, ok := c.Get(principalKey).(warmpool.Principal)
	if !ok {
		panic("e2b: a route without authentication asked for its principal")
	}
	return p
}
