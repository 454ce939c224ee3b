package kube

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"k8s.io/client-go/rest"
)

// reconnect is between two tries of a Patient client to reach the API server.
const reconnect = time.Second

// Patient is an HTTP client for caches. What lists and watches ask while the API server cannot be reached is asked again every second, for
// as long as it is wanted: left to themselves they ask after 30 to 60 s, once the server has been away for half a minute, and all that time
// what they keep is old. Other requests fail at once.
func Patient(access *rest.Config) (*http.Client, error) {
	access = rest.CopyConfig(access)
	access.Wrap(func(next http.RoundTripper) http.RoundTripper { return patient{next: next, pause: reconnect} })
	c, err := rest.HTTPClientFor(access)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	return c, nil
}

type patient struct {
	next  http.RoundTripper
	pause time.Duration
}

// RoundTrip implements http.RoundTripper.
func (p patient) RoundTrip(req *http.Request) (*http.Response, error) {
	query := req.URL.Query()
	if req.Method != http.MethodGet || !query.Has("watch") && !query.Has("resourceVersion") {
		return p.next.RoundTrip(req)
	}
	for {
		res, err := p.next.RoundTrip(req)
		var dial *net.OpError
		if err == nil || !errors.As(err, &dial) || dial.Op != "dial" { // nothing was sent
			return res, err
		}
		timer := time.NewTimer(p.pause)
		select {
		case <-timer.C:
		case <-req.Context().Done():
			timer.Stop()
			return nil, err
		}
	}
}
