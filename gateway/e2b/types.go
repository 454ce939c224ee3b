package e2b

import (
	"errors"
	"io"
	"math"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/tidwall/gjson"

	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// maxBody bounds every request's body.
const maxBody = 1 << 20

var errSlowBody = echo.NewHTTPError(http.StatusRequestTimeout, "the body did not arrive in time")

// body reads a request's JSON object; no body at all is an empty object. JavaScript SDKs send theirs chunked.
func body(c echo.Context, fs *faults) (object, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(c.Response(), c.Request().Body, maxBody))
	if err == nil {
		_ = http.NewResponseController(c.Response()).SetReadDeadline(time.Time{}) // hurried has set it
	}
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		return object{}, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return object{}, errSlowBody
	case err != nil:
		return object{}, &warmpool.Error{Code: warmpool.Invalid, Message: "the body could not be read to its end", Err: err}
	case strings.TrimSpace(string(raw)) == "":
		raw = []byte("{}")
	default:
		if err := mustBeJSON(c.Request().Header); err != nil {
			return object{}, err
		}
	}
	v, reason := parseJSON(raw)
	if reason != "" {
		return object{}, warmpool.Errorf(warmpool.Invalid, "the body %s", reason)
	}
	o, ok := readObject("", v, fs)
	if !ok {
		return object{}, warmpool.Errorf(warmpool.Invalid, "the body must be a JSON object")
	}
	return o, nil
}

func mustBeJSON(h http.Header) error {
	if e := h.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return echo.NewHTTPError(http.StatusUnsupportedMediaType, "the body must not be compressed")
	}
	kind := h.Get("Content-Type")
	if kind == "" {
		return nil
	}
	if media, _, err := mime.ParseMediaType(kind); err != nil || media != echo.MIMEApplicationJSON {
		return echo.NewHTTPError(http.StatusUnsupportedMediaType, "the body must be application/json")
	}
	return nil
}

// lifetime reads a field of seconds from now: at least one, at most what the gateway allows.
func (s *server) lifetime(o object, name string, otherwise time.Duration) time.Duration {
	n, ok := o.whole(name)
	if !ok {
		return otherwise
	}
	most := int64(s.service.Limits().MaxTimeout / time.Second)
	if n < 1 || n > most {
		o.faults.add(o.at(name), "must be between 1 and %d seconds", most)
		return otherwise
	}
	return time.Duration(n) * time.Second
}

// sandboxID is the sandbox that the path names. Old SDKs write "<id>-<clientID>".
func sandboxID(c echo.Context) (warmpool.ID, error) {
	name, _, _ := strings.Cut(param(c, "id"), "-")
	id, ok := warmpool.ParseID(name)
	if !ok {
		return "", warmpool.Errorf(warmpool.NotFound, "sandbox %s not found", strconv.Quote(short(param(c, "id"))))
	}
	c.Set(sandboxKey, id)
	return id, nil
}

// param is a path parameter as the caller meant it: echo matches against the escaped path where there is one.
func param(c echo.Context, name string) string {
	value := c.Param(name)
	if c.Request().URL.RawPath == "" {
		return value
	}
	if plain, err := url.PathUnescape(value); err == nil {
		return plain
	}
	return value
}

const maxPage = 100

// query reads a list's query. The second result is whether running sandboxes are among the states asked for.
func query(c echo.Context, fs *faults) (gateway.Query, bool) {
	q := gateway.Query{
		Limit: pageSize(c, fs), Cursor: c.QueryParam("nextToken"),
		Template: templateName(c.QueryParam("template")), Metadata: metadataFilter(c, fs),
	}
	switch order := c.QueryParam("order"); order {
	case "", "desc":
	case "asc":
		q.OldestFirst = true
	default:
		fs.add("order", `must be "asc" or "desc"`)
	}
	if after := c.QueryParam("startedAfter"); after != "" {
		at, err := time.Parse(time.RFC3339Nano, strings.Replace(after, " ", "+", 1)) // a + that was not escaped
		if err != nil {
			fs.add("startedAfter", "must be a time in RFC 3339")
		}
		q.StartedAfter = at
	}
	return q, runningAsked(c, fs)
}

func pageSize(c echo.Context, fs *faults) int {
	raw := c.QueryParam("limit")
	if raw == "" {
		return maxPage
	}
	n, err := strconv.Atoi(raw)
	if err != nil || n < 1 || n > maxPage {
		fs.add("limit", "must be between 1 and %d", maxPage)
	}
	return n
}

// runningAsked reads state, a comma list that may be repeated too. Nothing is ever paused here, so "paused" alone chooses none.
func runningAsked(c echo.Context, fs *faults) bool {
	asked := strings.Join(c.QueryParams()["state"], ",")
	if asked == "" {
		return true
	}
	running := false
	for state := range strings.SplitSeq(asked, ",") {
		switch strings.TrimSpace(state) {
		case "running":
			running = true
		case "paused", "":
		default:
			fs.add("state", `must be "running" or "paused", or both with a comma between them`)
		}
	}
	return running
}

// metadataFilter reads metadata: a form inside the query whose keys and values are escaped once more.
func metadataFilter(c echo.Context, fs *faults) map[string]string {
	raw := c.QueryParam("metadata")
	if raw == "" {
		return nil
	}
	form, err := url.ParseQuery(raw)
	if err != nil {
		fs.add("metadata", "must be a form (key=value&...) with keys and values escaped")
		return nil
	}
	out := map[string]string{}
	for k, values := range form {
		key, keyErr := url.PathUnescape(k)
		value, valueErr := url.PathUnescape(values[0])
		_, twice := out[key]
		switch {
		case keyErr != nil || valueErr != nil:
			fs.add("metadata", "must have its keys and values escaped once more than the form itself")
		case twice || len(values) > 1:
			fs.add("metadata", "must have each key once")
		default:
			out[key] = value
		}
	}
	return out
}

// unixTime reads a query parameter of whole seconds since 1970; absent is the zero time.
func unixTime(c echo.Context, name string, fs *faults) time.Time {
	raw := c.QueryParam(name)
	if raw == "" {
		return time.Time{}
	}
	n, err := strconv.ParseInt(raw, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt32*int64(1000) {
		fs.add(name, "must be a time in seconds since 1970")
		return time.Time{}
	}
	return time.Unix(n, 0)
}

// templateName is the name of a template as E2B's rules read it: lower case, and the default tag means the template itself.
func templateName(s string) string {
	return strings.TrimSuffix(strings.ToLower(s), ":default")
}

// elements of an array field, nil where it is absent or faulty.
func (o object) elements(name string, most int) []gjson.Result {
	v, ok := o.fields[name]
	if !ok {
		return nil
	}
	return elements(o.at(name), v, most, o.faults)
}

func elements(place string, v gjson.Result, most int, fs *faults) []gjson.Result {
	if !v.IsArray() {
		fs.add(place, "must be a JSON array")
		return nil
	}
	all := v.Array()
	if len(all) > most {
		fs.add(place, "must have at most %d elements; it has %d", most, len(all))
		return nil
	}
	return all
}
