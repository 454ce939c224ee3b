package envd

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
)

// guard lets in who shows the sandbox's token. /health is for everybody, /init guards itself, and so do transfers of
// files, since a signed URL stands in for the token. A daemon with a key serves nobody before it was initialised.
func guard(state *initialize.State, keyed bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch route := r.Method + " " + r.URL.Path; {
		case route == "GET /health", route == "POST "+initialize.Path:
		case keyed && !state.Ready():
			refuse(w, http.StatusUnauthorized, "the sandbox has not been initialised yet")
			return
		case route == "GET /files", route == "POST /files":
		case !state.Admits(r.Header.Get(initialize.Header)):
			refuse(w, http.StatusUnauthorized, "unauthorized access, please provide a valid access token or method signing if supported")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func refuse(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"code": code, "message": message})
}

// withoutZeroTimeout drops a Connect-Timeout-Ms of 0: SDKs mean "never" by it, the Connect library "now".
func withoutZeroTimeout(next http.Handler) http.Handler {
	const header = "Connect-Timeout-Ms"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ms, err := strconv.Atoi(r.Header.Get(header)); err == nil && ms == 0 {
			r.Header.Del(header)
		}
		next.ServeHTTP(w, r)
	})
}

// cors lets pages of any origin use the daemon; the token is what keeps others out. Preflights carry none.
func cors(next http.Handler) http.Handler {
	const exposed = "Grpc-Status, Grpc-Message, Grpc-Status-Details-Bin, Location, Cache-Control, X-Content-Type-Options"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") == "" {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", "*")
		if asked := r.Header.Get("Access-Control-Request-Method"); r.Method == http.MethodOptions && asked != "" {
			h.Set("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
			h.Set("Access-Control-Allow-Methods", "HEAD, GET, POST, PUT, PATCH, DELETE")
			if headers := r.Header.Get("Access-Control-Request-Headers"); headers != "" {
				h.Set("Access-Control-Allow-Headers", headers)
			}
			h.Set("Access-Control-Max-Age", "7200")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		h.Set("Access-Control-Expose-Headers", exposed)
		next.ServeHTTP(w, r)
	})
}
