package initialize

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"
)

// maxBody bounds the environment that a sandbox can be given, well above what an exec can take.
const maxBody = 4 << 20

// Handler serves POST /init.
type Handler struct {
	State *State
	// Verifier, if set, lets only signed requests pass.
	Verifier *Verifier
	// Version is told in every answer.
	Version string
	Log     *slog.Logger
}

// foreign are fields of upstream's body that ask for something which this daemon does not do. Taking them silently
// would let a caller believe in mounts or certificates that are not there.
type foreign struct {
	VolumeMounts json.RawMessage `json:"volumeMounts"`
	HyperloopIP  json.RawMessage `json:"hyperloopIP"`
	CABundle     json.RawMessage `json:"caBundle"`
}

func (f foreign) asked() string {
	for name, raw := range map[string]json.RawMessage{"volumeMounts": f.VolumeMounts, "hyperloopIP": f.HyperloopIP, "caBundle": f.CABundle} {
		switch string(bytes.TrimSpace(raw)) {
		case "", "null", "[]", `""`:
		default:
			return name
		}
	}
	return ""
}

// ServeHTTP answers 204, or an error as {code, message}.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(VersionHeader, h.Version)
	w.Header().Set("Cache-Control", "no-store")
	code, err := h.serve(w, r)
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	h.Log.Debug("initialisation refused", "code", code, "error", err)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"code": code, "message": err.Error()})
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) (int, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return http.StatusBadRequest, err
	}
	var signedAt time.Time
	if h.Verifier != nil {
		if signedAt, err = h.Verifier.verify(r.Header, body); err != nil {
			return http.StatusUnauthorized, err
		}
	}
	var req Request
	var other foreign
	if len(bytes.TrimSpace(body)) > 0 {
		if err := errors.Join(json.Unmarshal(body, &req), json.Unmarshal(body, &other)); err != nil {
			return http.StatusBadRequest, errors.New("the body is not the JSON object of an initialisation")
		}
	}
	if name := other.asked(); name != "" {
		return http.StatusNotImplemented, errors.New(name + " is not served by this daemon: mount volumes and install certificates from outside")
	}
	if err := req.validate(); err != nil {
		return http.StatusBadRequest, err
	}
	switch err := h.State.apply(req, signedAt); {
	case errors.Is(err, errTokenNeeded):
		return http.StatusBadRequest, err
	case err != nil:
		return http.StatusUnauthorized, err
	}
	return http.StatusNoContent, nil
}
