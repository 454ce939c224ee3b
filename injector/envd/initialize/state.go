package initialize

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"maps"
	"sync"
	"time"
)

var (
	errTokenMismatch = errors.New("access token validation failed: this sandbox was initialised with another one")
	errTokenAbsent   = errors.New("access token reset not authorized: name the token that this sandbox was initialised with")
	errTokenNeeded   = errors.New("accessToken must be given when the daemon was started with a key")
	errOlder         = errors.New("a later initialisation was accepted already")
)

// State is what the daemon was told. Its zero value is a daemon that was told nothing.
type State struct {
	mu     sync.RWMutex
	ready  bool
	token  string // empty: none
	env    map[string]string
	user   string
	dir    string
	newest time.Time // Timestamp of the last request that was applied
	signed time.Time // when the last accepted request was signed
}

// Ready says whether an initialisation was accepted.
func (s *State) Ready() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ready
}

// TokenSet says whether callers need a token.
func (s *State) TokenSet() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.token != ""
}

// Admits says whether a caller with this token may go on: it is the sandbox's token, or there is none. The time it
// takes does not depend on how much of the token is right.
func (s *State) Admits(token string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.token == "" || s.same(token)
}

func (s *State) same(token string) bool {
	theirs, ours := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(s.token))
	return subtle.ConstantTimeCompare(theirs[:], ours[:]) == 1
}

// Token is the sandbox's access token, empty when there is none. Signed URLs are checked against it.
func (s *State) Token() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.token
}

// Env is a copy of the variables that every command starts with.
func (s *State) Env() map[string]string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return maps.Clone(s.env)
}

// DefaultUser is who runs what names no user: root until /init says otherwise.
func (s *State) DefaultUser() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.user == "" {
		return "root"
	}
	return s.user
}

// DefaultDir is where commands and paths without a directory lie; empty is the user's home.
func (s *State) DefaultDir() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.dir
}

// apply takes an initialisation over. The first may set any token, later ones must name the same. signedAt is zero
// when no signature was asked for.
func (s *State) apply(r Request, signedAt time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.token != "" && r.AccessToken == "":
		return errTokenAbsent
	case s.token != "" && !s.same(r.AccessToken):
		return errTokenMismatch
	case !signedAt.IsZero() && r.AccessToken == "":
		return errTokenNeeded
	case signedAt.Before(s.signed):
		return errOlder
	}
	s.ready, s.signed = true, signedAt
	if r.Timestamp != nil {
		if !r.Timestamp.After(s.newest) {
			return nil
		}
		s.newest = *r.Timestamp
	}
	if r.AccessToken != "" {
		s.token = r.AccessToken
	}
	if r.EnvVars != nil {
		s.env = maps.Clone(r.EnvVars)
	}
	if r.DefaultUser != "" {
		s.user = r.DefaultUser
	}
	if r.DefaultWorkdir != "" {
		s.dir = r.DefaultWorkdir
	}
	return nil
}
