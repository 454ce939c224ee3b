package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/sandgate-dev/sandgate/warmpool"
)

// Record is what is kept of a key.
type Record struct {
	ID      string    `json:"id"`   // public: names the key in logs and in what it creates
	Team    string    `json:"team"` // owner of what the key creates
	Hash    string    `json:"hash"` // hex SHA-256 of the key
	Created time.Time `json:"created"`
}

// Keys are the keys that are known. The zero value knows none. Safe for concurrent use.
type Keys struct {
	mu      sync.RWMutex
	records []Record
	byHash  map[[sha256.Size]byte]warmpool.Principal
}

// Add makes key known as id of team. The id must be new.
func (k *Keys) Add(id, team string, key Key, created time.Time) error {
	if _, ok := Parse(key.Reveal()); !ok {
		return fmt.Errorf("key %q: want e2b_ and 40 lowercase hexadecimal digits", id)
	}
	return k.add(Record{ID: id, Team: team, Hash: key.Hash(), Created: created.UTC()})
}

func (k *Keys) add(r Record) error {
	if r.ID == "" || r.Team == "" {
		return fmt.Errorf("key %q: id and team are required", r.ID)
	}
	raw, err := hex.DecodeString(r.Hash)
	if err != nil || len(raw) != sha256.Size {
		return fmt.Errorf("key %q: hash: want 64 hexadecimal digits", r.ID)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, have := range k.records {
		if have.ID == r.ID {
			return fmt.Errorf("key %q: that id is taken", r.ID)
		}
	}
	sum := [sha256.Size]byte(raw)
	if _, ok := k.byHash[sum]; ok {
		return fmt.Errorf("key %q: the same key is known under another id", r.ID)
	}
	if k.byHash == nil {
		k.byHash = map[[sha256.Size]byte]warmpool.Principal{}
	}
	k.byHash[sum] = warmpool.Principal{Team: r.Team, Key: r.ID}
	k.records = append(k.records, r)
	return nil
}

// Records are what is kept of every key, in the order they were added.
func (k *Keys) Records() []Record {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return append([]Record(nil), k.records...)
}

// Lookup is the principal of a key, and whether there is one. Every stored hash is compared in constant time, and all of
// them each time: how long it takes tells nothing of how near a guess was.
func (k *Keys) Lookup(key string) (warmpool.Principal, bool) {
	sum := sha256.Sum256([]byte(key))
	k.mu.RLock()
	defer k.mu.RUnlock()
	var found warmpool.Principal
	ok := false
	for have, p := range k.byHash {
		if subtle.ConstantTimeCompare(have[:], sum[:]) == 1 {
			found, ok = p, true
		}
	}
	_, formed := Parse(key)
	if !ok || !formed {
		return warmpool.Principal{}, false
	}
	return found, true
}
