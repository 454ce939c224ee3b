// Package files serves the contents of a sandbox's files over plain HTTP: GET and POST /files, and /files/compose.
// Who shows the sandbox's token may transfer any file, who has a signed URL that one. Uploads belong to the user that
// they name. The package knows nothing of directories' listings or of processes.
package files

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"syscall"

	"k8s.io/utils/clock"

	"github.com/sandgate-dev/sandgate/injector/envd/account"
)

// Handler serves the routes. All its fields must be set.
type Handler struct {
	Accounts *account.Directory
	// Token is the sandbox's access token, "" while there is none.
	Token func() string
	Clock clock.PassiveClock
	Log   *slog.Logger
}

// Register adds the routes to a mux.
func (h *Handler) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /files", h.guarded(Read, h.download))
	mux.HandleFunc("POST /files", h.guarded(Write, h.upload))
	mux.HandleFunc("POST /files/compose", h.compose)
}

// guarded answers who may not transfer, and turns what a route returns into an answer.
func (h *Handler) guarded(op string, serve func(http.ResponseWriter, *http.Request, account.Account) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := h.authorize(r, op)
		switch {
		case errors.Is(err, errExpiration):
			err = refuse(http.StatusBadRequest, err)
		case err != nil:
			err = refuse(http.StatusUnauthorized, err)
		}
		var who account.Account
		if err == nil {
			who, err = h.user(r.URL.Query().Get("username"))
		}
		if err == nil {
			err = serve(w, r, who)
		}
		if err != nil {
			h.fail(w, r, err)
		}
	}
}

func (h *Handler) user(name string) (account.Account, error) {
	who, err := h.Accounts.Lookup(name)
	if err != nil {
		return who, refuse(http.StatusUnauthorized, fmt.Errorf("error looking up user: %w", err))
	}
	return who, nil
}

// refusal is an error with the status that it is answered with.
type refusal struct {
	code int
	err  error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refuse(code int, err error) error { return &refusal{code, err} }

// status says with which code an error of the file system is answered.
func status(err error) int {
	var r *refusal
	switch {
	case errors.As(err, &r):
		return r.code
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return http.StatusInsufficientStorage
	case errors.Is(err, fs.ErrNotExist):
		return http.StatusNotFound
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, account.ErrPath):
		return http.StatusBadRequest
	default:
		return http.StatusInternalServerError
	}
}

func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	code := status(err)
	message := err.Error()
	if code == http.StatusInsufficientStorage {
		message = "not enough disk space available"
	}
	h.Log.Debug("file transfer refused", "method", r.Method, "code", code, "error", err)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"code": code, "message": message})
}
