package node

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// record is what is written down of a mount, so that a later process can adopt it. It never holds a secret.
type record struct {
	Spec         mount.Spec    `json:"spec"`
	Driver       string        `json:"driver"`
	VolumeHandle string        `json:"volumeHandle"`
	Fingerprint  string        `json:"fingerprint"` // of everything that was asked but the secret
	FSType       string        `json:"fsType,omitempty"`
	Remote       bool          `json:"remote,omitempty"`
	ReadOnly     bool          `json:"readOnly,omitempty"`
	Client       mount.Process `json:"client,omitzero"`
	// StoresOnClose is the Source's.
	StoresOnClose bool `json:"storesOnClose,omitempty"`
	// Namespace and MountID are where the mount is, or was about to be.
	Namespace uint64 `json:"namespace,omitempty"`
	MountID   uint64 `json:"mountId,omitempty"`
	// Replaces is the mount of the same in whose place this one is being put.
	Replaces *record `json:"replaces,omitempty"`
	// MountedAt is zero until it was seen there.
	MountedAt time.Time `json:"mountedAt,omitzero"`
}

func newRecord(m mount.Mount) (record, error) {
	asked := struct {
		mount.Mount
		Secret      struct{} // hides the secrets, so that new ones are no other mount
		StageSecret struct{} `json:",omitzero"`
	}{Mount: m}
	asked.AllowNonEmpty = false // nor is one whose target may look otherwise
	b, err := json.Marshal(asked)
	if err != nil {
		return record{}, fmt.Errorf("fingerprint: %w", err)
	}
	sum := sha256.Sum256(b)
	return record{
		Spec: m.Spec, Driver: m.Driver, VolumeHandle: m.VolumeHandle, Fingerprint: hex.EncodeToString(sum[:16]), ReadOnly: readOnly(m),
	}, nil
}

func readOnly(m mount.Mount) bool {
	return m.ReadOnly || m.AccessMode == mount.ReadOnlyMany || slices.Contains(m.Options, "ro")
}

// journal is a directory with one file for each mount.
type journal struct{ dir string }

const suffix = ".json"

// key names a place in file names.
func (p place) key() string {
	sum := sha256.Sum256([]byte(p.container + "\x00" + p.target))
	return hex.EncodeToString(sum[:12])
}

// write replaces the file of r's place as a whole. The journal is for the death of this process, not of the machine, with which
// the mounts end as well: nothing is forced to disk.
func (j journal) write(p place, r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	path := filepath.Join(j.dir, p.key()+suffix)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

func (j journal) remove(p place) error {
	err := os.Remove(filepath.Join(j.dir, p.key()+suffix))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// read returns what can be read, and an error for each file that cannot, which is moved out of the way for somebody to look at.
func (j journal) read() ([]record, error) {
	files, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	var out []record
	var errs []error
	for _, f := range files {
		path := filepath.Join(j.dir, f.Name())
		switch {
		case strings.HasSuffix(f.Name(), ".new"): // cut short
			errs = append(errs, os.Remove(path))
		case strings.HasSuffix(f.Name(), suffix):
			r, err := readRecord(path)
			if err != nil {
				errs = append(errs, fmt.Errorf("journal: %s: %w", f.Name(), err), os.Rename(path, path+".broken"))
				continue
			}
			out = append(out, r)
		}
	}
	return out, errors.Join(errs...)
}

func readRecord(path string) (record, error) {
	var r record
	b, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, err
	}
	if key := (place{r.Spec.Container, r.Spec.Target}).key() + suffix; key != filepath.Base(path) {
		return r, errors.New("its content belongs to another file")
	}
	return r, nil
}
