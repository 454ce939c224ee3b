package files

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

var errNotAcceptable = errors.New("no acceptable encoding found, supported: [identity, gzip]")

// acceptable is what an Accept-Encoding header says about the two encodings that there are. Weights are per RFC 9110
// section 12.5.3: identity is fine unless refused by name or by "*;q=0".
type acceptable struct{ gzip, identity float64 }

func accepts(header string) acceptable {
	const unnamed = -1
	a, rest := acceptable{unnamed, unnamed}, float64(unnamed)
	for item := range strings.SplitSeq(header, ",") {
		coding, q := weight(item)
		switch coding {
		case "gzip", "x-gzip":
			a.gzip = q
		case "identity":
			a.identity = q
		case "*":
			rest = q
		}
	}
	if a.identity == unnamed {
		// Below every weight that was named, but there: unless all the rest was refused.
		a.identity = 0.0001
		if rest == 0 {
			a.identity = 0
		}
	}
	if a.gzip == unnamed {
		a.gzip = 0
		if rest > 0 && a.identity == 0 {
			a.gzip = rest
		}
	}
	return a
}

func weight(item string) (coding string, q float64) {
	coding, params, _ := strings.Cut(item, ";")
	q = 1
	for p := range strings.SplitSeq(params, ";") {
		if name, value, ok := strings.Cut(strings.TrimSpace(p), "="); ok && strings.EqualFold(name, "q") {
			if n, err := strconv.ParseFloat(value, 64); err == nil {
				q = n
			}
		}
	}
	return strings.ToLower(strings.TrimSpace(coding)), q
}

// compressed says whether the answer is to be gzipped, or that no answer would be acceptable. Ranges and conditions
// speak of the file's own bytes.
func compressed(r *http.Request) (bool, error) {
	a := accepts(r.Header.Get("Accept-Encoding"))
	if a.gzip <= 0 && a.identity <= 0 {
		return false, errNotAcceptable
	}
	for _, h := range []string{"Range", "If-Range", "If-Modified-Since", "If-None-Match"} {
		if r.Header.Get(h) == "" {
			continue
		}
		if a.identity <= 0 {
			return false, errNotAcceptable
		}
		return false, nil
	}
	return a.gzip > 0 && a.gzip >= a.identity, nil
}

// decoded is the request's body without its content encoding.
func decoded(r *http.Request) (io.Reader, error) {
	coding := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding")))
	switch coding {
	case "", "identity":
		return r.Body, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, fmt.Errorf("error decompressing request body: %w", err))
		}
		return z, nil
	default:
		return nil, refuse(http.StatusBadRequest, fmt.Errorf("unsupported Content-Encoding: %s, supported: [identity, gzip]", coding))
	}
}
