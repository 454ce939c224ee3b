package channel

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"regexp"
	"time"
)

// How long certificates are good for. They are renewed after two thirds.
const (
	authorityLife = 10 * 365 * 24 * time.Hour
	identityLife  = 90 * 24 * time.Hour
	// skew is how far a clock may be behind the issuer's.
	skew = time.Hour
)

// suffix makes a sandbox's UID a host name; nobody looks it up.
const suffix = ".sandbox.sandgate.dev"

// label is one part of a host name: a UID with a dot or a star in it would name others.
var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

const maxLabel = 63

// The names of clients that an agent listens to.
const (
	Gateway    = "gateway"
	Controller = "controller"
)

// Key is a private key in PEM. Whatever prints, logs or encodes it gets "[redacted]".
type Key []byte

// String hides the key.
func (Key) String() string { return "[redacted]" }

// Format hides the key from every other verb.
func (Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// LogValue hides the key from slog.
func (Key) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// MarshalJSON hides the key from encoders.
func (Key) MarshalJSON() ([]byte, error) { return []byte(`"[redacted]"`), nil }

// Identity is a certificate with its key, and the authority by which the other side is judged. All are PEM.
type Identity struct {
	Cert []byte
	Key  Key
	CA   []byte
}

// NotAfter is when the certificate ends.
func (i Identity) NotAfter() (time.Time, error) {
	c, err := certificate(i.Cert)
	if err != nil {
		return time.Time{}, err
	}
	return c.NotAfter, nil
}

// Stale says that the certificate should be renewed, or cannot be used at all.
func (i Identity) Stale(now time.Time) bool {
	c, err := certificate(i.Cert)
	if err != nil {
		return true
	}
	return now.After(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) * 2 / 3))
}

// tls is the identity as TLS uses it.
func (i Identity) tls() (tls.Certificate, *x509.CertPool, error) {
	pair, err := tls.X509KeyPair(i.Cert, i.Key)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("identity: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(i.CA) {
		return tls.Certificate{}, nil, errors.New("identity: the authority's certificate cannot be read")
	}
	return pair, pool, nil
}

// Authority issues the identities of one installation.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// NewAuthority makes an authority, good for ten years.
func NewAuthority(now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "sandgate publish channel"},
		NotBefore: now.Add(-skew), NotAfter: now.Add(authorityLife), KeyUsage: x509.KeyUsageCertSign,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	return &Authority{cert: cert, key: key, pem: encode("CERTIFICATE", der)}, nil
}

// LoadAuthority reads what Cert and Key gave out.
func LoadAuthority(certPEM []byte, keyPEM Key) (*Authority, error) {
	cert, err := certificate(certPEM)
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, errors.New("authority: the key is no PEM")
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("authority: the key cannot be read") // the cause may quote it
	}
	if !key.PublicKey.Equal(cert.PublicKey) || !cert.IsCA {
		return nil, errors.New("authority: key and certificate do not belong together")
	}
	return &Authority{cert: cert, key: key, pem: certPEM}, nil
}

// Cert is the authority's certificate, by which what it issues is judged.
func (a *Authority) Cert() []byte { return a.pem }

// Key is the authority's key. Who has it can be any agent and any client.
func (a *Authority) Key() (Key, error) {
	der, err := x509.MarshalECPrivateKey(a.key)
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	return encode("EC PRIVATE KEY", der), nil
}

// Agent issues the identity of the agent in the pod of the sandbox with this UID.
func (a *Authority) Agent(sandboxUID string, now time.Time) (Identity, error) {
	if len(sandboxUID) > maxLabel || !label.MatchString(sandboxUID) {
		return Identity{}, fmt.Errorf("identity: %q is no sandbox's UID: expected up to 63 of a-z, 0-9 and -", sandboxUID)
	}
	return a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "agent"}, DNSNames: []string{sandboxUID + suffix},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, now)
}

// Client issues the identity of Gateway or Controller.
func (a *Authority) Client(name string, now time.Time) (Identity, error) {
	if name != Gateway && name != Controller {
		return Identity{}, fmt.Errorf("identity: %q is no client, expected %s or %s", name, Gateway, Controller)
	}
	return a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, now)
}

func (a *Authority) issue(template *x509.Certificate, now time.Time) (Identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Identity{}, fmt.Errorf("identity: %w", err)
	}
	template.SerialNumber, template.KeyUsage = serial(), x509.KeyUsageDigitalSignature
	template.NotBefore, template.NotAfter = now.Add(-skew), now.Add(identityLife)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return Identity{}, fmt.Errorf("identity: %w", err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return Identity{}, fmt.Errorf("identity: %w", err)
	}
	return Identity{Cert: encode("CERTIFICATE", der), Key: encode("EC PRIVATE KEY", raw), CA: a.pem}, nil
}

func serial() *big.Int {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	return new(big.Int).SetBytes(raw)
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func certificate(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the certificate is no PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}
