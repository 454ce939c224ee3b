package files

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/sandgate-dev/sandgate/injector/envd/account"
)

func (h *Handler) download(w http.ResponseWriter, r *http.Request, who account.Account) error {
	path, err := h.Accounts.Resolve(r.URL.Query().Get("path"), who)
	if err != nil {
		return err
	}
	info, err := readable(path)
	if err != nil {
		return err
	}
	zip, err := compressed(r)
	if err != nil {
		return refuse(http.StatusNotAcceptable, err)
	}
	f, err := open(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	kind, err := contentType(f)
	if err != nil {
		return fmt.Errorf("error reading file: %w", err)
	}
	w.Header().Set("Vary", "Accept-Encoding")
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Disposition", mime.FormatMediaType("inline", map[string]string{"filename": filepath.Base(path)}))
	switch {
	case zip:
		w.Header().Set("Content-Encoding", "gzip")
		send(w, r, f, true)
	case info.Size() == 0:
		// What the kernel makes up as it is read (/proc, /sys) has no size, but may have content.
		send(w, r, f, false)
	default:
		http.ServeContent(w, r, "", info.ModTime(), f)
	}
	return nil
}

// readable refuses what is no file before it is opened: opening a pipe would wait for its writer.
func readable(path string) (fs.FileInfo, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, refuse(http.StatusNotFound, fmt.Errorf("path '%s' does not exist", path))
	case err != nil:
		return nil, fmt.Errorf("error checking if path exists: %w", err)
	case info.IsDir():
		return nil, refuse(http.StatusBadRequest, fmt.Errorf("path '%s' is a directory", path))
	case !info.Mode().IsRegular():
		return nil, irregular(path)
	}
	return info, nil
}

func irregular(path string) error {
	return refuse(http.StatusBadRequest, fmt.Errorf("path '%s' is not a regular file", path))
}

// open opens what was found to be a file. Commands may have put a pipe in its place since then, which must not be
// waited for.
func open(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0o666)
	if errors.Is(err, syscall.ENXIO) {
		return nil, irregular(path)
	}
	if err != nil {
		return nil, fmt.Errorf("error opening file: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) != 0 {
		err = irregular(path)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

var zips = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is a valid one
	return z
}}

// send writes all of f. A fault on the way breaks the connection, so that no client takes a part for the whole.
func send(w http.ResponseWriter, r *http.Request, f io.Reader, zip bool) {
	if r.Method == http.MethodHead {
		return
	}
	if !zip {
		if _, err := io.Copy(w, f); err != nil {
			panic(http.ErrAbortHandler)
		}
		return
	}
	z, _ := zips.Get().(*gzip.Writer)
	defer zips.Put(z)
	z.Reset(w)
	_, err := io.Copy(z, f)
	if err = errors.Join(err, z.Close()); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// kinds are the types that cannot be told from content. The system's own table would cost more memory than all the
// rest of the daemon.
var kinds = map[string]string{
	".css": "text/css; charset=utf-8", ".csv": "text/csv; charset=utf-8", ".htm": "text/html; charset=utf-8",
	".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".json": "application/json",
	".md": "text/markdown; charset=utf-8", ".mjs": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
	".txt": "text/plain; charset=utf-8", ".xml": "text/xml; charset=utf-8",
}

func contentType(f *os.File) (string, error) {
	if kind, ok := kinds[strings.ToLower(filepath.Ext(f.Name()))]; ok {
		return kind, nil
	}
	var head [512]byte
	n, err := f.ReadAt(head[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return http.DetectContentType(head[:n]), nil
}
