//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
)

// identity is a directory into which the kubelet puts the Secret, again when it is renewed.
type identity struct {
	dir string

	mu   sync.Mutex
	seen time.Time
	last channel.Identity
}

// read returns the identity of now. The kubelet swaps a symbolic link, so that one file's time tells of all.
func (i *identity) read() (channel.Identity, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	info, err := os.Stat(filepath.Join(i.dir, "tls.crt"))
	if err != nil {
		return channel.Identity{}, fmt.Errorf("identity: %w", err)
	}
	if info.ModTime().Equal(i.seen) {
		return i.last, nil
	}
	cert, errCert := os.ReadFile(filepath.Join(i.dir, "tls.crt"))
	key, errKey := os.ReadFile(filepath.Join(i.dir, "tls.key"))
	ca, errCA := os.ReadFile(filepath.Join(i.dir, "ca.crt"))
	if err := errors.Join(errCert, errKey, errCA); err != nil {
		return channel.Identity{}, fmt.Errorf("identity: %w", err)
	}
	i.seen, i.last = info.ModTime(), channel.Identity{Cert: cert, Key: key, CA: ca}
	return i.last, nil
}
