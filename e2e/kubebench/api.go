package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// api is E2B's API at the replicas of the gateway, over connections that are kept.
type api struct {
	urls []string
	key  string
	http *http.Client
}

func newAPI(urls []string, key string) *api {
	return &api{urls: urls, key: key, http: &http.Client{
		Timeout: answerTime, Transport: &http.Transport{MaxIdleConns: 4096, MaxIdleConnsPerHost: 2048, DisableCompression: true},
	}}
}

// answerTime is how long an answer may take: what E2B's SDKs wait.
const answerTime = 60 * time.Second

// answer is what a replica said to a request.
type answer struct {
	Replica    int
	Status     int // 0: nothing, and Err says why
	ID         string
	RetryAfter string
	Took       time.Duration
	Err        error
	Body       string
}

// replica is the number of the one whose turn it is.
func (a *api) replica(turn int) int { return turn % len(a.urls) }

func (a *api) call(ctx context.Context, replica int, method, path, body string) (out answer) {
	out.Replica = replica
	begin := time.Now()
	defer func() { out.Took = time.Since(begin) }()
	r, err := http.NewRequestWithContext(ctx, method, a.urls[replica]+path, strings.NewReader(body))
	if err != nil {
		out.Err = err
		return out
	}
	r.Header.Set("X-API-Key", a.key)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	res, err := a.http.Do(r)
	if err != nil {
		out.Err = err
		return out
	}
	defer res.Body.Close()
	var text bytes.Buffer
	_, out.Err = io.Copy(&text, res.Body)
	out.Status, out.RetryAfter, out.Body = res.StatusCode, res.Header.Get("Retry-After"), text.String()
	return out
}

// create asks for a sandbox of a template; more are further fields of the body.
func (a *api) create(ctx context.Context, replica int, template, more string) answer {
	out := a.call(ctx, replica, http.MethodPost, "/sandboxes", fmt.Sprintf(`{"templateID":%q,"timeout":600%s}`, template, more))
	if out.Status == http.StatusCreated {
		var box struct {
			SandboxID string `json:"sandboxID"`
		}
		if err := json.Unmarshal([]byte(out.Body), &box); err != nil {
			out.Err = err
		}
		out.ID = box.SandboxID
	}
	return out
}

// kill ends a sandbox.
func (a *api) kill(ctx context.Context, replica int, id string) error {
	return a.call(ctx, replica, http.MethodDelete, "/sandboxes/"+id, "").as(http.StatusNoContent)
}

// list is the IDs of all sandboxes that a replica tells of.
func (a *api) list(ctx context.Context, replica int) ([]string, error) {
	got := a.call(ctx, replica, http.MethodGet, "/sandboxes", "")
	if err := got.as(http.StatusOK); err != nil {
		return nil, err
	}
	var boxes []struct {
		SandboxID string `json:"sandboxID"`
	}
	err := json.Unmarshal([]byte(got.Body), &boxes)
	out := make([]string, len(boxes))
	for i, b := range boxes {
		out[i] = b.SandboxID
	}
	return out, err
}

// as is an error unless the answer has that status.
func (a answer) as(status int) error {
	switch {
	case a.Err != nil:
		return a.Err
	case a.Status != status:
		return fmt.Errorf("replica %d answered %d after %s: %s", a.Replica+1, a.Status, a.Took.Round(time.Millisecond), strings.TrimSpace(a.Body))
	}
	return nil
}

// scrape is a page of metrics.
func (a *api) scrape(ctx context.Context, url string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := a.http.Do(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return string(text), err
}
