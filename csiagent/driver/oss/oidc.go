package oss

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// OIDC exchanges a service account's token at the vendor's security token service (AssumeRoleWithOIDC). A plain value.
type OIDC struct {
	// Endpoint is the service's, an https URL.
	Endpoint string
	// TokenFile is where the kubelet projects the token, and replaces it.
	TokenFile string
	// Client is http.DefaultClient with a timeout when nil.
	Client *http.Client
}

var _ Exchanger = OIDC{}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 10

// Exchange implements Exchanger. What the service answers is never part of an error.
func (o OIDC) Exchange(ctx context.Context, r Role) (mount.Secret, error) {
	token, err := os.ReadFile(o.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("%w: the agent's service account token cannot be read", mount.ErrUnavailable)
	}
	form := url.Values{
		"Action": {"AssumeRoleWithOIDC"}, "Version": {"2015-04-01"}, "Format": {"JSON"}, "RoleArn": {r.ARN}, "OIDCProviderArn": {r.Provider},
		"OIDCToken": {strings.TrimSpace(string(token))}, "RoleSessionName": {"sandgate"}, "SignatureNonce": {rand.Text()},
		"Timestamp": {time.Now().UTC().Format("2006-01-02T15:04:05Z")},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.Endpoint, strings.NewReader(form.Encode()))
	if err != nil || req.URL.Scheme != "https" {
		return nil, errors.New("the endpoint of the token service must be an https URL")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	client := o.Client
	if client == nil {
		client = &http.Client{Timeout: 10 * time.Second}
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: the token service does not answer", mount.ErrUnavailable)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	switch {
	case err != nil || res.StatusCode >= 500:
		return nil, fmt.Errorf("%w: the token service does not answer", mount.ErrUnavailable)
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%w: the token service refuses the role to this agent; look at roleArn, oidcProviderArn and the role's trust policy", mount.ErrDenied)
	}
	var out struct{ Credentials map[string]string }
	if err := json.Unmarshal(body, &out); err != nil {
		return nil, fmt.Errorf("%w: the token service answers something else than credentials", mount.ErrUnavailable)
	}
	return out.Credentials, nil
}
