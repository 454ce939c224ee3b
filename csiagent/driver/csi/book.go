package csi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// record is what was begun at a place. It holds no secret.
type record struct {
	Handle string `json:"handle"`
	Print  string `json:"print"` // of what it was begun with
	// Staged and Published are what the plugin was told, or is about to be.
	Staged    bool `json:"staged,omitempty"`
	Published bool `json:"published,omitempty"`
	Ending    bool `json:"ending,omitempty"` // nobody has it any more
}

// book is a directory with one directory for each place, and one for each staged volume:
//
//	places/PLACE/record.json  places/PLACE/mount  stages/HASH
type book struct{ dir string }

const recordFile = "record.json"

// place is the part of a staging directory's name that is the same for every mount at one place.
func place(dir string) string {
	name, _, _ := strings.Cut(filepath.Base(dir), "-")
	return name
}

func openBook(dir string) (book, error) {
	b := book{dir}
	for _, sub := range []string{"", "places", "stages"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return b, fmt.Errorf("csi: %w", err)
		}
	}
	return b, nil
}

func (b book) at(place string) string     { return filepath.Join(b.dir, "places", place) }
func (b book) target(place string) string { return filepath.Join(b.at(place), "mount") }

// stage is where a volume is staged: one directory for all its mounts.
func (b book) stage(handle string) string {
	sum := sha256.Sum256([]byte(handle))
	return filepath.Join(b.dir, "stages", hex.EncodeToString(sum[:12]))
}

// begin writes r down and makes what the plugin does not make itself.
func (b book) begin(place string, r record) error {
	if err := b.write(place, r); err != nil || !r.Staged {
		return err
	}
	if err := os.Mkdir(b.stage(r.Handle), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("staging directory: %w", err)
	}
	return nil
}

func (b book) write(place string, r record) error {
	text, err := json.Marshal(r)
	if err == nil {
		err = os.MkdirAll(b.at(place), 0o700)
	}
	file := filepath.Join(b.at(place), recordFile)
	if err == nil {
		err = os.WriteFile(file+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		return fmt.Errorf("write down what is begun: %w", err)
	}
	return nil
}

func (b book) read(place string) (r record, there bool, err error) {
	text, err := os.ReadFile(filepath.Join(b.at(place), recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return r, false, fmt.Errorf("read what was begun: %w", err)
	}
	return r, true, nil
}

func (b book) all() (map[string]record, error) {
	dirs, err := os.ReadDir(filepath.Join(b.dir, "places"))
	errs := []error{err}
	out := map[string]record{}
	for _, dir := range dirs {
		r, there, err := b.read(dir.Name())
		errs = append(errs, err)
		if there {
			out[dir.Name()] = r
		}
	}
	return out, errors.Join(errs...)
}

// last says whether nobody but the place has r's volume.
func (b book) last(place string, r record) (bool, error) {
	records, err := b.all()
	if err != nil {
		return false, err
	}
	for at, other := range records {
		if at != place && other.Handle == r.Handle {
			return false, nil
		}
	}
	return true, nil
}

// clear removes a directory that the plugin should have left empty, and what it left mounted on it. Nothing that lies in it is removed:
// it may be the volume's.
func (b book) clear(dir string) error {
	for {
		err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err == nil {
			continue
		}
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("take away what the driver left mounted: %w", err)
		}
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what the driver left: %w", err)
		}
		return nil
	}
}

// remove forgets a place. Its record goes last of what matters.
func (b book) remove(place string) error {
	file := filepath.Join(b.at(place), recordFile)
	for _, name := range []string{file + ".new", file, b.at(place)} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget what was begun: %w", err)
		}
	}
	return nil
}

// quiet is for a look at what may be a mount: whoever is behind it, who may never answer, is not asked.
const quiet = unix.AT_STATX_DONT_SYNC | unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT

// open returns the root of what is mounted at a place for a volume.
func (b book) open(place, handle string) (*os.File, error) {
	fd, err := unix.Open(b.target(place), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open mount: %w", err)
	}
	root := os.NewFile(uintptr(fd), "csi")
	var st, stage unix.Statx_t
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|quiet, unix.STATX_INO, &st)
	switch {
	case err != nil:
	case st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0:
		err = errors.New("nothing is mounted there")
	case unix.Statx(unix.AT_FDCWD, b.stage(handle), quiet, unix.STATX_INO, &stage) == nil && stage.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 &&
		stage.Ino == st.Ino && stage.Dev_major == st.Dev_major && stage.Dev_minor == st.Dev_minor:
		// A FUSE client that ends soon after it was started takes its mount away, and what is bound then is the directory that was below.
		err = errors.New("the staging directory is mounted there, with no volume in it")
	}
	if err != nil {
		_ = root.Close()
		return nil, fmt.Errorf("look at mount: %w", err)
	}
	return root, nil
}
