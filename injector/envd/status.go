package envd

import (
	"encoding/json"
	"net/http"
)

// status serves what there is to know about the sandbox as a whole.
type status struct {
	env   func() map[string]string
	meter *meter
}

func (s *status) register(mux *http.ServeMux) {
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /envs", func(w http.ResponseWriter, _ *http.Request) {
		env := s.env()
		if env == nil {
			env = map[string]string{}
		}
		answer(w, env)
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		m, err := s.meter.read()
		if err != nil {
			refuse(w, http.StatusInternalServerError, "metrics cannot be read: "+err.Error())
			return
		}
		answer(w, m)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, "no such route")
	})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
