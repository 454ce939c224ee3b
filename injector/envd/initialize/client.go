package initialize

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Init initialises the daemon at baseURL, which is sandboxID's, and returns the version that it reports. A nil signer
// sends the request unsigned, for a daemon without a key. The client's transport says how the sandbox is dialled.
// A 401 is ErrRefused; everything else that fails is an ordinary error, after which the same call may be tried again.
func Init(ctx context.Context, client *http.Client, baseURL, sandboxID string, req Request, signer *Signer) (version string, err error) {
	body, err := json.Marshal(req)
	if err != nil {
		return "", fmt.Errorf("initialise %s: %w", sandboxID, err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(baseURL, "/")+Path, bytes.NewReader(body))
	if err != nil {
		return "", fmt.Errorf("initialise %s: %w", sandboxID, err)
	}
	r.Header.Set("Content-Type", "application/json")
	if signer != nil {
		signer.sign(r.Header, sandboxID, body)
	}
	// The body holds the token: it goes to no other address than the one asked for.
	direct := *client
	direct.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := direct.Do(r)
	if err != nil {
		return "", fmt.Errorf("initialise %s: %w", sandboxID, err)
	}
	defer func() { _ = res.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10)) // what cannot be read is only a poorer message
	switch res.StatusCode {
	case http.StatusNoContent:
		return res.Header.Get(VersionHeader), nil
	case http.StatusUnauthorized:
		return "", fmt.Errorf("initialise %s: %w: %s", sandboxID, ErrRefused, reason(text))
	default:
		return "", fmt.Errorf("initialise %s: the daemon answered %d: %s", sandboxID, res.StatusCode, reason(text))
	}
}

// reason is an error body's message, or the body itself when it has no such form.
func reason(body []byte) string {
	var e struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &e) == nil && e.Message != "" {
		return e.Message
	}
	return strings.TrimSpace(string(body))
}
