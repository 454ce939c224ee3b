package envd

import (
	"net/http"
	"strings"
	"time"

	"github.com/sandgate-dev/sandgate/injector/envd/filesystem/filesystempb/filesystempbconnect"
)

// How many requests may work on files at once, and how long further ones wait. A volume whose server hangs keeps a
// thread of each request that touched it, even after its client went, and a sandbox has only so many threads: without
// a bound, a client that looks for a file every second would end the daemon.
const (
	maxCalls, callPatience         = 128, 30 * time.Second
	maxTransfers, transferPatience = 128, 10 * time.Minute // those before may be slow, and still get there
)

// crowds bounds those who work on files.
func crowds(next http.Handler) http.Handler {
	calls, transfers := crowd(maxCalls, callPatience, next), crowd(maxTransfers, transferPatience, next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; {
		case path == filesystempbconnect.FilesystemWatchDirProcedure: // lasts, holds no thread, and bounds its beginning itself
			next.ServeHTTP(w, r)
		case strings.HasPrefix(path, "/"+filesystempbconnect.FilesystemName+"/"):
			calls.ServeHTTP(w, r)
		case strings.HasPrefix(path, "/files"):
			transfers.ServeHTTP(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// crowd lets n requests through at once. One that has waited for patience is refused.
func crowd(n int, patience time.Duration, next http.Handler) http.Handler {
	slots := make(chan struct{}, n)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		enough := time.NewTimer(patience)
		defer enough.Stop()
		select {
		case slots <- struct{}{}:
		case <-r.Context().Done():
			return
		case <-enough.C:
			refuse(w, http.StatusServiceUnavailable, "too many requests work on files and do not come to an end: does a volume hang?")
			return
		}
		defer func() { <-slots }()
		next.ServeHTTP(w, r)
	})
}
