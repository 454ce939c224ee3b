package e2b

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/warmpool"
)

func (s *server) create(otherwise time.Duration) echo.HandlerFunc {
	return func(c echo.Context) error {
		var fs faults
		ctx := c.Request().Context()
		a, err := s.claim(c, otherwise, &fs)
		if err != nil {
			return err
		}
		if a.unused != "" {
			s.logger.LogAttrs(ctx, slog.LevelInfo, "mounts given twice in metadata",
				slog.String("request", gateway.RequestID(ctx)), slog.String("used", a.from), slog.String("ignored", a.unused))
		}
		if len(fs) > 0 {
			return s.refused(c, a, fs)
		}
		sb, err := s.service.Create(ctx, a.claim)
		if err != nil {
			return inPlace(err, a.places)
		}
		c.Set(sandboxKey, sb.ID)
		err = c.JSON(http.StatusCreated, s.sandbox(c, sb))
		if err != nil && a.claim.IdempotencyKey == "" {
			// Nobody knows of it: it would only wait for its deadline. With a key the caller can ask for it again.
			return errors.Join(err, s.service.Kill(context.WithoutCancel(ctx), a.claim.Principal, sb.ID))
		}
		return err
	}
}

// refused answers a create request with its faults and those that the gateway sees in what is sound of it.
func (s *server) refused(c echo.Context, a order, fs faults) error {
	err := s.service.Check(c.Request().Context(), a.claim)
	reword(asFaults(err), a.places, &fs)
	if a.claim.Template != "" && warmpool.CodeOf(err) == warmpool.NotFound {
		fs.add("templateID", "%s", err.Error())
	}
	return fs.err()
}

func (s *server) get(c echo.Context) error {
	id, err := sandboxID(c)
	if err != nil {
		return err
	}
	sb, err := s.service.Get(c.Request().Context(), principal(c), id)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, s.detail(c, sb))
}

func (s *server) kill(c echo.Context) error {
	id, err := sandboxID(c)
	if err != nil {
		return err
	}
	if err := s.service.Kill(c.Request().Context(), principal(c), id); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// connect answers 200: a sandbox that is there is running, so nothing is ever resumed (201).
func (s *server) connect(otherwise time.Duration, required bool) echo.HandlerFunc {
	return func(c echo.Context) error {
		var fs faults
		id, o, err := asked(c, &fs)
		if err != nil {
			return err
		}
		o.only(true, "timeout", "memory")
		o.truth("memory") // says how to wake a paused sandbox; there is none
		if _, given := o.fields["timeout"]; required && !given {
			fs.add("timeout", "is required")
		}
		timeout := s.lifetime(o, "timeout", otherwise)
		if err := fs.err(); err != nil {
			return err
		}
		sb, err := s.service.Connect(c.Request().Context(), principal(c), id, timeout)
		if err != nil {
			return err
		}
		return c.JSON(http.StatusOK, s.sandbox(c, sb))
	}
}

// asked is the sandbox that the path names, and what the body says of it.
func asked(c echo.Context, fs *faults) (warmpool.ID, object, error) {
	id, err := sandboxID(c)
	if err != nil {
		return "", object{}, err
	}
	o, err := body(c, fs)
	return id, o, err
}

// resume is for paused sandboxes, of which there are none.
func (s *server) resume(c echo.Context) error {
	id, err := sandboxID(c)
	if err != nil {
		return err
	}
	if _, err := s.service.Get(c.Request().Context(), principal(c), id); err != nil {
		return err
	}
	return warmpool.Errorf(warmpool.Conflict, "sandbox %s is running already", id)
}

func (s *server) setTimeout(c echo.Context) error {
	var fs faults
	id, o, err := asked(c, &fs)
	if err != nil {
		return err
	}
	o.only(true, "timeout")
	timeout := s.duration(o, "timeout", s.service.Limits().MaxTimeout, true)
	if err := fs.err(); err != nil {
		return err
	}
	if err := s.service.SetTimeout(c.Request().Context(), principal(c), id, timeout); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// maxRefresh is E2B's own bound of one keep-alive.
const maxRefresh = time.Hour

func (s *server) refresh(c echo.Context) error {
	var fs faults
	id, o, err := asked(c, &fs)
	if err != nil {
		return err
	}
	o.only(true, "duration")
	d := s.duration(o, "duration", min(maxRefresh, s.service.Limits().MaxTimeout), false)
	if err := fs.err(); err != nil {
		return err
	}
	if err := s.service.Refresh(c.Request().Context(), principal(c), id, d); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// duration reads a field of seconds that may be zero.
func (s *server) duration(o object, name string, most time.Duration, required bool) time.Duration {
	n, ok := o.whole(name)
	if _, given := o.fields[name]; required && !given {
		o.faults.add(name, "is required")
	}
	if ok && (n < 0 || n > int64(most/time.Second)) {
		o.faults.add(name, "must be between 0 and %d seconds", int64(most/time.Second))
		return 0
	}
	return time.Duration(n) * time.Second
}

func (s *server) list(c echo.Context) error {
	var fs faults
	q, running := query(c, &fs)
	if err := fs.err(); err != nil {
		return err
	}
	page := gateway.Page{}
	if running {
		var err error
		if page, err = s.service.List(c.Request().Context(), principal(c), q); err != nil {
			return err
		}
	}
	if page.Next != "" {
		c.Response().Header().Set("X-Next-Token", page.Next)
	}
	if running {
		c.Response().Header().Set("X-Total-Running", strconv.Itoa(page.Total))
	}
	return c.JSON(http.StatusOK, listed(page.Sandboxes))
}

// maxLegacyList bounds the list that has no pages.
const maxLegacyList = 5000

func (s *server) listRunning(c echo.Context) error {
	var fs faults
	q := gateway.Query{Metadata: metadataFilter(c, &fs)}
	if err := fs.err(); err != nil {
		return err
	}
	page, err := s.service.List(c.Request().Context(), principal(c), q)
	if err != nil {
		return err
	}
	if page.Total > maxLegacyList {
		return warmpool.Errorf(warmpool.Invalid, "more than %d sandboxes match; use GET /v2/sandboxes to page through them", maxLegacyList)
	}
	return c.JSON(http.StatusOK, listed(page.Sandboxes))
}

func (s *server) metrics(c echo.Context) error {
	id, err := sandboxID(c)
	if err != nil {
		return err
	}
	var fs faults
	start, end := unixTime(c, "start", &fs), unixTime(c, "end", &fs)
	if !start.IsZero() && !end.IsZero() && end.Before(start) {
		fs.add("end", "must not be before start")
	}
	if err := fs.err(); err != nil {
		return err
	}
	samples, err := s.service.Usage(c.Request().Context(), principal(c), id)
	if err != nil {
		return err
	}
	out := []metric{}
	for _, u := range samples {
		if !u.At.Before(start) && (end.IsZero() || !u.At.After(end)) {
			out = append(out, metricOf(u))
		}
	}
	return c.JSON(http.StatusOK, out)
}

// metricsOfMany answers the newest sample of each sandbox; those that are not the caller's are left out.
func (s *server) metricsOfMany(c echo.Context) error {
	names := strings.Split(strings.Join(c.QueryParams()["sandbox_ids"], ","), ",")
	if len(names) > maxPage {
		return warmpool.Errorf(warmpool.Invalid, "sandbox_ids: must name at most %d sandboxes", maxPage)
	}
	out := map[string]metric{}
	for _, name := range names {
		id, ok := warmpool.ParseID(name)
		if !ok {
			continue
		}
		samples, err := s.service.Usage(c.Request().Context(), principal(c), id)
		switch {
		case warmpool.CodeOf(err) == warmpool.NotFound:
		case err != nil:
			return err
		case len(samples) > 0:
			out[name] = metricOf(samples[len(samples)-1])
		}
	}
	return c.JSON(http.StatusOK, map[string]any{"sandboxes": out})
}
