package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sandgate-dev/sandgate/warmpool"
)

// sealed begins with its version, so that another form can be told from it.
const sealed = 1

// ErrSealed is an environment that cannot be opened: of other keys, of another sandbox or claim, or damaged.
var ErrSealed = errors.New("the sealed environment cannot be opened with these keys for this claim")

// Seal encrypts an environment for one claim of one sandbox; nil for an empty one.
func (k Keys) Seal(id warmpool.ID, nonce string, env map[string]string) ([]byte, error) {
	if len(env) == 0 {
		return nil, nil
	}
	aead, err := k.aead()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(env)
	if err != nil {
		return nil, fmt.Errorf("seal the environment: %w", err)
	}
	out := make([]byte, 1+aead.NonceSize(), 1+aead.NonceSize()+len(text)+aead.Overhead())
	out[0] = sealed
	_, _ = rand.Read(out[1:]) // never fails (crypto/rand)
	return aead.Seal(out, out[1:], text, bound(id, nonce)), nil
}

// Open is what Seal has sealed; nil for nothing.
func (k Keys) Open(id warmpool.ID, nonce string, box []byte) (map[string]string, error) {
	if len(box) == 0 {
		return nil, nil
	}
	aead, err := k.aead()
	if err != nil {
		return nil, err
	}
	head := 1 + aead.NonceSize()
	if len(box) < head || box[0] != sealed {
		return nil, ErrSealed
	}
	text, err := aead.Open(nil, box[1:head], box[head:], bound(id, nonce))
	if err != nil {
		return nil, ErrSealed
	}
	var env map[string]string
	if err := json.Unmarshal(text, &env); err != nil {
		return nil, ErrSealed
	}
	return env, nil
}

func (k Keys) aead() (cipher.AEAD, error) {
	block, err := aes.NewCipher(k.seal)
	if err != nil {
		return nil, fmt.Errorf("keyring: the keys are empty; load them first: %w", err)
	}
	return cipher.NewGCM(block)
}

// bound ties a box to what it was made for. Neither part can hold the bar.
func bound(id warmpool.ID, nonce string) []byte { return []byte(string(id) + "|" + nonce) }
