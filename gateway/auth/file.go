package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

type file struct {
	Keys []Record `json:"keys"`
}

// Load reads the keys of a file that Save wrote. A file that is missing gives no keys; one that others may read or write is
// refused, since whoever writes it can log in.
func Load(path string) (*Keys, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &Keys{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s: mode is %04o, want 0600 (chmod 600 it)", path, info.Mode().Perm())
	}
	raw, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	keys, err := Read(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}

// Read takes the keys from what a file of them holds, wherever that is kept.
func Read(raw []byte) (*Keys, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	var content file
	if err := dec.Decode(&content); err != nil {
		return nil, err
	}
	if dec.More() {
		return nil, errors.New("something follows the keys")
	}
	keys := &Keys{}
	for _, r := range content.Keys {
		if err := keys.add(r); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// Save writes the keys' hashes to a file of mode 0600, whole or not at all.
func (k *Keys) Save(path string) error {
	raw, err := json.MarshalIndent(file{Keys: k.Records()}, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	err = write(f, append(raw, '\n'))
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

func write(f *os.File, raw []byte) error {
	_, err := f.Write(raw)
	if err == nil {
		err = f.Sync() // a rename may reach the disk before the content does
	}
	return errors.Join(err, f.Close())
}
