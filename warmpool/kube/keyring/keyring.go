// Package keyring holds what the parts of an installation know and nobody else: the key of the sandboxes' access tokens, the one
// that their daemons are initialised with and the one that environments are sealed with. They lie in Secrets of the release
// namespace, which the controller makes and the gateway reads. It does not know who uses them for what sandbox.
package keyring

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"

	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// Names of the Secrets in the release namespace.
const (
	// SecretKeys holds id, token, init and seal.
	SecretKeys = "sandgate-keys"
	// SecretAuthority holds ca.crt and ca.key, for the controller alone.
	SecretAuthority = "sandgate-ca"
	// SecretGatewayClient holds tls.crt, tls.key and ca.crt: who the gateway is to the agents.
	SecretGatewayClient = "sandgate-gateway-client"
	// SecretAPIKeys holds api-keys.json: the hashes of the API keys.
	SecretAPIKeys = "sandgate-api-keys"
	// SecretAdminKey holds key: the first API key in the clear, for whoever installs.
	SecretAdminKey = "sandgate-admin-key"
)

// Fields of SecretKeys.
const (
	fieldID    = "id"
	fieldToken = "token"
	fieldInit  = "init"
	fieldSeal  = "seal"
)

const size = 32 // of each key

// Keys are an installation's. Whatever prints or logs them gets their ID.
type Keys struct {
	// ID names the keys in claims, so that one can tell which were used.
	ID                string
	token, init, seal []byte
}

// Generate makes random keys.
func Generate() Keys {
	k := Keys{token: random(), init: random(), seal: random()}
	sum := sha256.Sum256(append([]byte("sandgate keys v1\n"), k.token...))
	k.ID = "k" + hex.EncodeToString(sum[:8])
	return k
}

func random() []byte {
	out := make([]byte, size)
	_, _ = rand.Read(out) // never fails (crypto/rand)
	return out
}

// Ensure reads the keys of a release namespace, or makes them. Of several that make them at the same time one wins, and all get
// its keys.
func Ensure(ctx context.Context, c client.Client, namespace string) (Keys, error) {
	made := Generate()
	data, err := once(ctx, c, namespace, SecretKeys, map[string][]byte{
		fieldID: []byte(made.ID), fieldToken: made.token, fieldInit: made.init, fieldSeal: made.seal,
	})
	if err != nil {
		return Keys{}, err
	}
	return parse(namespace, data)
}

// Load reads the keys of a release namespace. NotFound as long as the controller has not made them.
func Load(ctx context.Context, c client.Reader, namespace string) (Keys, error) {
	data, err := read(ctx, c, namespace, SecretKeys)
	if err != nil {
		return Keys{}, err
	}
	return parse(namespace, data)
}

func parse(namespace string, data map[string][]byte) (Keys, error) {
	k := Keys{ID: string(data[fieldID]), token: data[fieldToken], init: data[fieldInit], seal: data[fieldSeal]}
	if k.ID == "" || len(k.ID) > 63 {
		return Keys{}, fmt.Errorf("secret %s/%s: field %s must be a name of 1 to 63 characters", namespace, SecretKeys, fieldID)
	}
	for name, key := range map[string][]byte{fieldToken: k.token, fieldInit: k.init, fieldSeal: k.seal} {
		if len(key) != size {
			return Keys{}, fmt.Errorf("secret %s/%s: field %s has %d bytes, expected %d", namespace, SecretKeys, name, len(key), size)
		}
	}
	return k, nil
}

// Token is the access token of a sandbox for one claim.
func (k Keys) Token(id warmpool.ID, nonce string) warmpool.Token {
	return warmpool.Token(initialize.Token(k.token, string(id), nonce))
}

// Signer signs initialisations; a nil clock is the real one.
func (k Keys) Signer(c clock.PassiveClock) (*initialize.Signer, error) {
	if len(k.init) != ed25519.SeedSize {
		return nil, fmt.Errorf("keyring: the keys are empty; load them first")
	}
	return initialize.NewSigner(ed25519.NewKeyFromSeed(k.init), c)
}

// InitKey is the public half of the key that initialisations are signed with, as the daemon's -init-key takes it.
func (k Keys) InitKey() (string, error) {
	s, err := k.Signer(nil)
	if err != nil {
		return "", err
	}
	return s.PublicKey(), nil
}

// Digest is a name for a text that says nothing of the text to those without the keys: 40 hexadecimal digits.
func (k Keys) Digest(purpose, text string) string {
	mac := hmac.New(sha256.New, k.seal)
	mac.Write([]byte("sandgate digest v1\n" + purpose + "\n" + text))
	return hex.EncodeToString(mac.Sum(nil)[:20])
}

// Format hides the keys from every verb.
func (k Keys) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("keys " + k.ID)) }

// LogValue hides the keys from slog.
func (k Keys) LogValue() slog.Value { return slog.StringValue("keys " + k.ID) }

// MarshalJSON hides the keys from encoders.
func (k Keys) MarshalJSON() ([]byte, error) { return []byte(`"[redacted]"`), nil }
