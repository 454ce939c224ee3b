package files

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/sandgate-dev/sandgate/injector/envd/account"
	"github.com/sandgate-dev/sandgate/injector/envd/metadata"
)

// entry describes a file that was written.
type entry struct {
	Path     string            `json:"path"`
	Name     string            `json:"name"`
	Type     string            `json:"type"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

// maxIgnored is how much of a refused body is read, so that the client, still sending, gets to see the refusal
// instead of a broken connection.
const maxIgnored = 64 << 20

func (h *Handler) upload(w http.ResponseWriter, r *http.Request, who account.Account) error {
	written, err := h.receive(r, who)
	if err != nil {
		_, _ = io.CopyN(io.Discard, r.Body, maxIgnored) // see above; the error is what counts
		return err
	}
	// The type is upstream's, too.
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_ = json.NewEncoder(w).Encode(written) // a client that went away has its file
	return nil
}

func (h *Handler) receive(r *http.Request, who account.Account) ([]entry, error) {
	about, err := metadata.FromHeader(r.Header)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, err)
	}
	body, err := decoded(r)
	if err != nil {
		return nil, err
	}
	kind, params, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	query := r.URL.Query()
	switch {
	case kind == "application/octet-stream" && !query.Has("path"):
		return nil, refuse(http.StatusBadRequest, errors.New("path query parameter is required for raw body upload"))
	case kind == "application/octet-stream":
		e, err := h.save(query.Get("path"), body, who, about)
		if err != nil {
			return nil, err
		}
		return []entry{e}, nil
	case strings.HasPrefix(kind, "multipart/") && params["boundary"] != "":
		return h.receiveForm(multipart.NewReader(body, params["boundary"]), query.Get("path"), who, about)
	default:
		return nil, refuse(http.StatusBadRequest, fmt.Errorf("unsupported content type: '%s', expected multipart/form-data with a boundary, or application/octet-stream", r.Header.Get("Content-Type")))
	}
}

// receiveForm writes every field named "file": to path if there is one, else to where its file name says.
func (h *Handler) receiveForm(form *multipart.Reader, path string, who account.Account, about map[string]string) ([]entry, error) {
	written := []entry{}
	for {
		part, err := form.NextRawPart()
		if err == io.EOF { //nolint:errorlint // wrapped, it is a form without an end
			return written, nil
		}
		if err != nil {
			return nil, refuse(http.StatusBadRequest, fmt.Errorf("error reading form: %w", err))
		}
		if part.FormName() != "file" {
			continue
		}
		to := path
		if to == "" {
			to = fileName(part)
		}
		if to == "" {
			return nil, refuse(http.StatusBadRequest, errors.New("a file's path is neither in the path query parameter nor in the part's filename"))
		}
		full, err := h.Accounts.Resolve(to, who)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(written, func(e entry) bool { return e.Path == full }) {
			return nil, refuse(http.StatusBadRequest, fmt.Errorf("you cannot upload multiple files to the same path '%s' in one upload request, only the first specified file was uploaded", full))
		}
		e, err := h.save(to, part, who, about)
		if err != nil {
			return nil, err
		}
		written = append(written, e)
	}
}

// fileName is a part's file name with its directories, which the standard library cuts off.
func fileName(part *multipart.Part) string {
	_, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
	if err != nil {
		return ""
	}
	return params["filename"]
}

// save writes body to path, which then belongs to who, as do the directories that were missing.
func (h *Handler) save(path string, body io.Reader, who account.Account, about map[string]string) (entry, error) {
	full, err := h.Accounts.Resolve(path, who)
	if err != nil {
		return entry{}, err
	}
	if err := writable(full); err != nil {
		return entry{}, err
	}
	if err := who.MakeDirs(filepath.Dir(full)); err != nil {
		return entry{}, fmt.Errorf("error ensuring directories: %w", err)
	}
	f, err := open(full, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return entry{}, err
	}
	err = fill(f, body, who, about)
	// Some file systems tell only now that there was no room.
	if err = errors.Join(err, f.Close()); err != nil {
		return entry{}, err
	}
	return entry{Path: full, Name: filepath.Base(full), Type: "file", Metadata: metadata.Read(full)}, nil
}

func fill(f *os.File, body io.Reader, who account.Account, about map[string]string) error {
	if err := who.Own(f); err != nil {
		return fmt.Errorf("error changing file ownership: %w", err)
	}
	if _, err := io.Copy(f, tracked{body}); err != nil {
		return err
	}
	return metadata.Write(f, about)
}

// tracked tells a broken body, which is the caller's fault, from a file that cannot be written.
type tracked struct{ io.Reader }

func (t tracked) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = refuse(http.StatusBadRequest, fmt.Errorf("error reading the upload: %w", err))
	}
	return n, err
}

// writable refuses what cannot be overwritten before it is opened: opening a pipe would wait for its reader.
func writable(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil
	case err != nil:
		return fmt.Errorf("error getting file info: %w", err)
	case info.IsDir():
		return refuse(http.StatusBadRequest, fmt.Errorf("path is a directory: %s", path))
	case info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) != 0:
		return irregular(path)
	}
	return nil
}
