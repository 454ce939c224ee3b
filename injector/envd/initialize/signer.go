package initialize

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"k8s.io/utils/clock"
)

const (
	timeHeader      = "X-Sandgate-Init-Time"
	signatureHeader = "X-Sandgate-Init-Signature"
)

// Signer signs initialisations with the key whose public half the daemons were started with.
type Signer struct {
	key   ed25519.PrivateKey
	clock clock.PassiveClock
}

// NewSigner makes a Signer; a nil clock is the real one.
func NewSigner(key ed25519.PrivateKey, c clock.PassiveClock) (*Signer, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("the signing key has %d bytes, expected an Ed25519 private key of %d", len(key), ed25519.PrivateKeySize)
	}
	if c == nil {
		c = clock.RealClock{}
	}
	return &Signer{key: key, clock: c}, nil
}

// PublicKey is the key's public half in the form that the daemon's -init-key takes.
func (s *Signer) PublicKey() string {
	public, _ := s.key.Public().(ed25519.PublicKey)
	return base64.StdEncoding.EncodeToString(public)
}

func (s *Signer) sign(h http.Header, sandboxID string, body []byte) {
	at := strconv.FormatInt(s.clock.Now().UnixMilli(), 10)
	h.Set(timeHeader, at)
	h.Set(signatureHeader, base64.StdEncoding.EncodeToString(ed25519.Sign(s.key, message(sandboxID, at, body))))
}

// message is what is signed. The first line keeps the key from being made to sign for another purpose; no part can
// hold a line feed (the body is hashed), so that no two requests give the same message.
func message(sandboxID, at string, body []byte) []byte {
	sum := sha256.Sum256(body)
	return []byte("sandgate init v1\n" + strconv.Quote(sandboxID) + "\n" + at + "\n" + hex.EncodeToString(sum[:]))
}

// maxSkew bounds the age of a signature, both ways, since the daemon's clock may run apart from the signer's. What
// can be replayed within it is only this sandbox's own initialisation, which names the same owner.
const maxSkew = 15 * time.Minute

var errSignature = errors.New("the request is not signed by the holder of this sandbox's key")

// Verifier checks what a Signer signed. It is made for one sandbox.
type Verifier struct {
	key       ed25519.PublicKey
	sandboxID string
	clock     clock.PassiveClock
}

// NewVerifier takes the public key in base64 and the sandbox that must be meant; a nil clock is the real one.
func NewVerifier(publicKey, sandboxID string, c clock.PassiveClock) (*Verifier, error) {
	key, err := base64.StdEncoding.DecodeString(publicKey)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("the key of /init must be an Ed25519 public key: %d bytes in base64", ed25519.PublicKeySize)
	}
	if sandboxID == "" {
		return nil, errors.New("the key of /init needs the sandbox's id, too: a signature is good for one sandbox only")
	}
	if c == nil {
		c = clock.RealClock{}
	}
	return &Verifier{key: key, sandboxID: sandboxID, clock: c}, nil
}

// verify returns when the request was signed. The signature is checked before the time, so that nobody learns
// anything of the clock without the key.
func (v *Verifier) verify(h http.Header, body []byte) (time.Time, error) {
	at := h.Get(timeHeader)
	signature, err := base64.StdEncoding.DecodeString(h.Get(signatureHeader))
	if err != nil || !ed25519.Verify(v.key, message(v.sandboxID, at, body), signature) {
		return time.Time{}, errSignature
	}
	millis, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return time.Time{}, errSignature
	}
	signed := time.UnixMilli(millis)
	if age := v.clock.Since(signed); age > maxSkew || age < -maxSkew {
		return time.Time{}, fmt.Errorf("the signature's time is %s away from this sandbox's clock, at most %s are allowed", age.Abs().Round(time.Second), maxSkew)
	}
	return signed, nil
}
