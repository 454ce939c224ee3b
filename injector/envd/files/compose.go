package files

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/sandgate-dev/sandgate/injector/envd/account"
	"github.com/sandgate-dev/sandgate/injector/envd/metadata"
)

// composition joins the parts of a large upload.
type composition struct {
	SourcePaths []string `json:"source_paths"`
	Destination string   `json:"destination"`
	Username    string   `json:"username"`
}

const maxComposition = 4 << 20

// compose serves POST /files/compose. It never sees a signed URL: whoever guards the daemon has asked for the token.
func (h *Handler) compose(w http.ResponseWriter, r *http.Request) {
	var c composition
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxComposition)).Decode(&c); err != nil {
		h.fail(w, r, refuse(http.StatusBadRequest, errors.New("the body must be an object with source_paths and destination")))
		return
	}
	e, err := h.join(c)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(e)
}

// join writes the sources, one after the other, beside the destination, moves the whole into place and removes the
// sources. Until then nothing that existed has changed.
func (h *Handler) join(c composition) (entry, error) {
	switch {
	case len(c.SourcePaths) == 0:
		return entry{}, refuse(http.StatusBadRequest, errors.New("source_paths must not be empty"))
	case c.Destination == "":
		return entry{}, refuse(http.StatusBadRequest, errors.New("destination is required"))
	}
	who, err := h.user(c.Username)
	if err != nil {
		return entry{}, err
	}
	to, err := h.Accounts.Resolve(c.Destination, who)
	if err != nil {
		return entry{}, err
	}
	if err := writable(to); err != nil {
		return entry{}, err
	}
	sources, err := h.sources(c.SourcePaths, to, who)
	if err != nil {
		return entry{}, err
	}
	if err := who.MakeDirs(filepath.Dir(to)); err != nil {
		return entry{}, fmt.Errorf("error ensuring directories: %w", err)
	}
	if err := concatenate(sources, to, who); err != nil {
		return entry{}, err
	}
	for _, s := range sources {
		if err := os.Remove(s); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return entry{}, fmt.Errorf("the file was composed, but a source cannot be removed: %w", err)
		}
	}
	return entry{Path: to, Name: filepath.Base(to), Type: "file", Metadata: metadata.Read(to)}, nil
}

// sources resolves and checks all before anything is written. The destination under another name would be removed
// with the sources, so files are compared, not just paths.
func (h *Handler) sources(paths []string, to string, who account.Account) ([]string, error) {
	dest, _ := os.Stat(to) // it need not exist
	out := make([]string, 0, len(paths))
	for _, p := range paths {
		full, err := h.Accounts.Resolve(p, who)
		if err != nil {
			return nil, err
		}
		info, err := readable(full)
		if err != nil {
			return nil, err
		}
		if full == to || dest != nil && os.SameFile(info, dest) {
			return nil, refuse(http.StatusBadRequest, fmt.Errorf("source path '%s' cannot be the same as destination", p))
		}
		out = append(out, full)
	}
	return out, nil
}

func concatenate(sources []string, to string, who account.Account) (err error) {
	whole, err := os.CreateTemp(filepath.Dir(to), ".compose-*")
	if err != nil {
		return fmt.Errorf("error creating destination file: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(whole.Name())
		}
	}()
	err = errors.Join(who.Own(whole), whole.Chmod(0o644))
	for _, s := range sources {
		if err == nil {
			err = appendFile(whole, s)
		}
	}
	if err = errors.Join(err, whole.Close()); err != nil {
		return fmt.Errorf("error composing file: %w", err)
	}
	return os.Rename(whole.Name(), to)
}

// appendFile lets the kernel copy between files where it can.
func appendFile(to *os.File, path string) error {
	f, err := open(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = io.Copy(to, f)
	return err
}
