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

	"golang.org/x/sys/unix"

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
	Namespace uint64    `json:"namespace,omitempty"`
	MountID   uint64    `json:"mountId,omitempty"`
	MountedAt time.Time `json:"mountedAt,omitzero"`
}

func (r record) place() place { return place{r.Spec.Container, r.Spec.Target} }

func newRecord(m mount.Mount) (record, error) {
	asked := struct {
		mount.Mount
		Secret      struct{} // hides the secrets, so that new ones are no other mount
		StageSecret struct{} `json:",omitzero"`
	}{Mount: m}
	asked.AllowNonEmpty = false // nor is one whose target may look otherwise
	asked.Nodes = nil           // or whose volume is on other nodes by now
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

// journal is a directory with a file for each mount, and a second one while a mount is being put there: it takes the first one's place when
// the mount was seen. The journal is for the death of this process, not of the machine, with which the mounts end as well: nothing is
// forced to disk.
type journal struct{ dir string }

// wrote is called after each change of what is written down; tests die in it.
var wrote = func(string) {}

const (
	suffix = ".json"
	next   = ".next"
)

// page is what is written of one place; nil for nothing.
type page struct{ is, next *record }

// id is that of the mount.
func (p page) id() string {
	if p.is != nil {
		return p.is.Spec.ID
	}
	return p.next.Spec.ID
}

func (j journal) file(p place, suffix string) string { return filepath.Join(j.dir, p.key()+suffix) }

// key names a place in file names.
func (p place) key() string {
	sum := sha256.Sum256([]byte(p.container + "\x00" + p.target))
	return hex.EncodeToString(sum[:12])
}

// begin writes down what is about to be mounted at p.
func (j journal) begin(p place, r record) error {
	b, err := json.Marshal(r)
	if err == nil {
		err = os.WriteFile(j.file(p, next), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	wrote("begun")
	return nil
}

// commit makes what was begun at p what is there.
func (j journal) commit(p place) error {
	if err := os.Rename(j.file(p, next), j.file(p, suffix)); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	wrote("committed")
	return nil
}

// revoke undoes begin, and commit where nothing was at p before.
func (j journal) revoke(p place, old *entry) error {
	if old != nil {
		return j.cancel(p)
	}
	return j.remove(p)
}

// cancel forgets what was begun at p.
func (j journal) cancel(p place) error { return j.erase(j.file(p, next)) }

// remove forgets everything of p.
func (j journal) remove(p place) error {
	err := errors.Join(j.erase(j.file(p, suffix)), j.cancel(p))
	wrote("removed")
	return err
}

func (j journal) erase(file string) error {
	if err := unix.Unlink(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// read returns what can be read, and an error for each file that cannot, which is moved out of the way for somebody to look at.
func (j journal) read() (map[place]page, error) {
	files, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	out := map[place]page{}
	var errs []error
	for _, f := range files {
		path, kind := filepath.Join(j.dir, f.Name()), filepath.Ext(f.Name())
		if kind != suffix && kind != next {
			continue
		}
		r, err := readRecord(path)
		var unread *fs.PathError
		var cut *json.SyntaxError
		switch {
		case err == nil && kind == suffix:
			out[r.place()] = page{&r, out[r.place()].next}
		case err == nil:
			out[r.place()] = page{out[r.place()].is, &r}
		case kind == next && errors.As(err, &cut): // before anything was mounted
			errs = append(errs, os.Remove(path))
		case errors.As(err, &unread): // which says nothing of what is in it
			errs = append(errs, fmt.Errorf("journal: %s: %w", f.Name(), err))
		default:
			errs = append(errs, fmt.Errorf("journal: %s: %w", f.Name(), err), os.Rename(path, path+".broken"))
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
	if name := filepath.Base(path); r.place().key() != strings.TrimSuffix(name, filepath.Ext(name)) {
		return r, errors.New("its content belongs to another file")
	}
	return r, nil
}
