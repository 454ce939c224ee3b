package proxy

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"strings"
)

// answer is the proxy's own answer, in the form that SDKs compare exactly.
type answer struct {
	SandboxID string `json:"sandboxId"`
	Message   string `json:"message"`
	Port      uint16 `json:"port,omitempty"`
	Code      int    `json:"code"`
}

func notFound(t target) answer {
	return answer{SandboxID: t.id, Message: "The sandbox was not found", Code: http.StatusBadGateway}
}

func portClosed(t target) answer {
	return answer{t.id, "The sandbox is running but port is not open", t.port, http.StatusBadGateway}
}

func noAnswer(t target) answer {
	return answer{t.id, "The sandbox is running but the service on the port gave no answer", t.port, http.StatusBadGateway}
}

func reservedPath(t target) answer {
	return answer{SandboxID: t.id, Message: "This path is reserved for the E2B control plane", Code: http.StatusNotFound}
}

func tooMany(t target) answer {
	return answer{SandboxID: t.id, Message: "Too many connections to the sandbox", Code: http.StatusTooManyRequests}
}

// write sends a to a program as JSON, to a person as a page.
func (a answer) write(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if strings.Contains(r.UserAgent(), "Mozilla/") {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(a.Code)
		_, _ = fmt.Fprintf(w, "<!DOCTYPE html><html><head><title>%d</title></head><body><h1>%s</h1><p>Sandbox %s%s</p></body></html>\n",
			a.Code, html.EscapeString(a.Message), html.EscapeString(a.SandboxID), portNote(a.Port))
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(a.Code)
	_ = json.NewEncoder(w).Encode(a) // the client may be gone; there is nobody else to tell
}

func portNote(port uint16) string {
	if port == 0 {
		return ""
	}
	return fmt.Sprintf(", port %d", port)
}

// plain is the answer to a request that names no sandbox.
func plain(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text + "\n"))
}
