package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path"
	"path/filepath"

	"github.com/open-policy-agent/cert-controller/pkg/rotator"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	pods "github.com/sandgate-dev/sandgate/injector/webhook"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// hookConfig is what the admission webhook is told.
type hookConfig struct {
	On   bool
	Port int
	Host string
}

func (c *hookConfig) bind(fs *flag.FlagSet) {
	fs.BoolVar(&c.On, "webhook", false, "serve the admission webhook that fits out pods which others make")
	fs.IntVar(&c.Port, "webhook-port", 9443, "port of the admission webhook")
	fs.StringVar(&c.Host, "webhook-host", "", "name by which the API server calls the admission webhook (default sandgate-webhook.RELEASE-NAMESPACE.svc)")
}

// What the chart makes for the webhook.
const (
	hookSecret  = "sandgate-webhook-cert"
	hookService = "sandgate-webhook"
	hookPath    = "/inject-pods"
)

// hookConfiguration is the name of the MutatingWebhookConfiguration of an installation.
func hookConfiguration(release string) string { return "sandgate-webhook-" + release }

// webhook serves pods' admission, on every replica, and keeps the certificate that the API server believes.
func (p *process) webhook(ctx context.Context, mgr manager.Manager, initKey string) error {
	if !p.cfg.Webhook.On {
		return nil
	}
	release := p.cfg.ReleaseNamespace
	handler, err := pods.New(pods.Config{
		Source: &p.injection, InitKey: initKey, Log: p.log,
		Runtimes: v1alpha1.AnnotationRuntimes, SandboxID: v1alpha1.LabelSandboxID, AgentSecret: v1alpha1.AnnotationAgentSecret,
		Builder: "system:serviceaccount:" + release + ":sandgate-controller",
	})
	if err != nil {
		return err
	}
	if _, err := mgr.GetCache().GetInformer(ctx, &corev1.Secret{}); err != nil {
		return err
	}
	own := certificate{mgr.GetCache(), client.ObjectKey{Namespace: release, Name: hookSecret}}
	server := webhook.NewServer(webhook.Options{Port: p.cfg.Webhook.Port, TLSOpts: []func(*tls.Config){func(c *tls.Config) {
		c.MinVersion, c.GetCertificate = tls.VersionTLS13, own.now
	}}})
	server.Register(hookPath, &admission.Webhook{Handler: handler})
	return errors.Join(mgr.Add(server), p.place(ctx, own.secret), p.rotate(mgr, own.secret))
}

// place puts an empty Secret where somebody has deleted the chart's: the rotator fills one and makes none, and would end the process.
func (p *process) place(ctx context.Context, key client.ObjectKey) error {
	err := p.live.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// certificate is the one in a Secret. It is served from memory: no file has its key, and a new one is in force without a restart.
type certificate struct {
	reader client.Reader
	secret client.ObjectKey
}

// now is the certificate for a connection that begins.
func (c certificate) now(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	var s corev1.Secret
	if err := c.reader.Get(hello.Context(), c.secret, &s); err != nil {
		return nil, fmt.Errorf("certificate of the webhook: %w", err)
	}
	pair, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil, fmt.Errorf("certificate of the webhook, secret %s: %w", c.secret, err)
	}
	return &pair, nil
}

// rotate makes the certificate, renews it and tells the API server whom to believe. Every replica does so, since each has to know when
// it can serve; of two that write at once the API server refuses one, which then finds the other's.
func (p *process) rotate(mgr manager.Manager, secret client.ObjectKey) error {
	dir, err := mounted()
	if err != nil {
		return err
	}
	host := p.cfg.Webhook.Host
	if host == "" {
		host = hookService + "." + secret.Namespace + ".svc"
	}
	configuration := hookConfiguration(secret.Namespace)
	access := rest.CopyConfig(mgr.GetConfig())
	access.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return narrow{next, map[string]string{"secrets": secret.Name, "mutatingwebhookconfigurations": configuration}}
	})
	return rotator.AddRotator(accessing{mgr, access}, &rotator.CertRotator{
		SecretKey: secret, CertDir: dir, CAName: "sandgate-webhook-ca", CAOrganization: "sandgate", DNSName: host,
		IsReady: p.hooked, FieldOwner: "sandgate-controller", ControllerName: "webhook-certificate",
		Webhooks: []rotator.WebhookInfo{{Name: configuration, Type: rotator.Mutating}},
	})
}

// mounted is a directory with a file where the rotator looks for the mounted certificate before it believes that it can be served.
// Nothing of ours has to wait for the kubelet, who takes a minute or more.
func mounted() (string, error) {
	dir, err := os.MkdirTemp("", "sandgate-webhook-")
	if err != nil {
		return "", fmt.Errorf("webhook: %w", err)
	}
	return dir, os.WriteFile(filepath.Join(dir, corev1.TLSCertKey), nil, 0o600)
}

// accessing is a manager whose caches go another way to the API server.
type accessing struct {
	manager.Manager
	access *rest.Config
}

// GetConfig implements Manager.
func (a accessing) GetConfig() *rest.Config { return a.access }

// narrow lists and watches one object where a whole kind is asked for. The rotator's cache watches all the Secrets of its namespace and
// all webhook configurations; the right to that is more than anybody needs.
type narrow struct {
	next http.RoundTripper
	only map[string]string // the object's name by its resource
}

// RoundTrip implements RoundTripper.
func (n narrow) RoundTrip(r *http.Request) (*http.Response, error) {
	name, ok := n.only[path.Base(r.URL.Path)]
	if !ok || r.Method != http.MethodGet {
		return n.next.RoundTrip(r)
	}
	r = r.Clone(r.Context())
	query := r.URL.Query()
	query.Set("fieldSelector", "metadata.name="+name)
	r.URL.RawQuery = query.Encode()
	return n.next.RoundTrip(r)
}
