package e2b

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// statuses is the one table from the gateway's codes to E2B's statuses.
var statuses = map[warmpool.Code]int{
	warmpool.Invalid:     http.StatusBadRequest,
	warmpool.Denied:      http.StatusForbidden,
	warmpool.NotFound:    http.StatusNotFound,
	warmpool.Conflict:    http.StatusConflict,
	warmpool.Mismatch:    http.StatusUnprocessableEntity,
	warmpool.Exhausted:   http.StatusTooManyRequests,
	warmpool.Unsupported: http.StatusNotImplemented,
	warmpool.Unavailable: http.StatusServiceUnavailable,
	warmpool.Internal:    http.StatusInternalServerError,
}

// statusGone is what the log says of requests whose caller did not wait.
const statusGone = 499

// problem is the body of every error. The SDKs take the code from here, not from the status line.
type problem struct {
	Code      int    `json:"code"`
	Message   string `json:"message"`
	ErrorCode string `json:"error_code,omitempty"`
}

// answerError is the only place where an error becomes an answer.
func (s *server) answerError(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	c.Set(causeKey, err)
	p, wait := s.problem(err, c)
	if wait > 0 {
		c.Response().Header().Set("Retry-After", strconv.Itoa(wait)) // SDKs retry on whole seconds only
	}
	// SDKs that know the header go by it; without it they repeat every 429, 502, 503 and 504.
	c.Response().Header().Set("Should-Retry", strconv.FormatBool(wait > 0))
	_ = c.JSON(p.Code, p) // the caller is gone when this fails
}

func (s *server) problem(err error, c echo.Context) (problem, int) {
	// The server takes a body that is late for a caller who is gone.
	if errors.Is(c.Request().Context().Err(), context.Canceled) && !errors.Is(err, errSlowBody) {
		return problem{Code: statusGone, Message: "the caller did not wait for the answer"}, 0
	}
	var (
		shown   *echo.HTTPError
		coded   *warmpool.Error
		tooLong *http.MaxBytesError
	)
	switch {
	case errors.As(err, &tooLong):
		return problem{
			Code: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("the body is larger than %d bytes", tooLong.Limit),
		}, 0
	case errors.As(err, &coded):
		return fromCode(coded, gateway.RequestID(c.Request().Context()))
	case errors.Is(err, echo.ErrNotFound):
		return problem{Code: http.StatusNotFound, Message: "there is no such route"}, 0
	case errors.Is(err, echo.ErrMethodNotAllowed):
		return problem{Code: http.StatusMethodNotAllowed, Message: "this route does not take that method; see the Allow header"}, 0
	case errors.As(err, &shown):
		return problem{Code: shown.Code, Message: fmt.Sprint(shown.Message)}, 0
	}
	return fromCode(&warmpool.Error{Code: warmpool.Internal}, gateway.RequestID(c.Request().Context()))
}

// fromCode is the answer to a coded error, and after how many seconds to ask again: 0 where that is of no use.
func fromCode(e *warmpool.Error, request string) (problem, int) {
	status, ok := statuses[e.Code]
	if !ok {
		status = http.StatusInternalServerError
	}
	p := problem{Code: status, Message: e.Message}
	switch status {
	case http.StatusTooManyRequests:
		if !e.Final { // else it is the caller's own limit
			p.ErrorCode = "sandbox_capacity_unavailable"
		}
		return p, wait(e)
	case http.StatusServiceUnavailable:
		return p, wait(e)
	case http.StatusConflict:
		if e.RetryAfter > 0 { // most conflicts do not pass by themselves
			return p, wait(e)
		}
	case http.StatusInternalServerError:
		p.ErrorCode = "internal_server_error"
		if p.Message == "" {
			p.Message = "something went wrong inside the gateway"
		}
		p.Message += "; its log says more under request " + request
	}
	return p, 0
}

// wait is an error's RetryAfter in whole seconds, at least one.
func wait(e *warmpool.Error) int {
	if e.Final {
		return 0
	}
	return max(1, int(math.Ceil(e.RetryAfter.Seconds())))
}

// fault is one thing wrong with a request, at a place that the caller wrote.
type fault struct{ place, reason string }

// faults gathers all that is wrong with a request, so that the caller learns it at once.
type faults []fault

// shownFaults bounds the message; a hostile body can have a hundred thousand faults.
const shownFaults = 64

func (f *faults) add(place, format string, args ...any) {
	*f = append(*f, fault{place, fmt.Sprintf(format, args...)})
}

// err is f as an error for the caller, nil when there are none.
func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	var lines []string
	for _, x := range f[:min(len(f), shownFaults)] {
		line := x.reason
		if x.place != "" {
			line = x.place + ": " + x.reason
		}
		lines = append(lines, line)
	}
	if more := len(f) - shownFaults; more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return warmpool.Errorf(warmpool.Invalid, "%s", strings.Join(lines, "; "))
}
