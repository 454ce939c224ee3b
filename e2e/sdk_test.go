package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/e2e/matrix"
)

// answers are those of a gateway that has one sandbox, with a status for create to choose.
func answers(created int) http.Handler {
	const body = `{"templateID":"base","sandboxID":"i0000000000000000000","clientID":"x","envdVersion":"0.6.4","domain":"x",
		"startedAt":"2026-01-01T00:00:00Z","endAt":"2026-01-01T00:05:00Z","cpuCount":1,"memoryMB":512,"diskSizeMB":1,"state":"running"}`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.Method {
		case http.MethodPost:
			w.WriteHeader(created)
		case http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
			return
		}
		fmt.Fprint(w, body)
	})
}

func TestASuiteTurnsRedWhenCreateAnswersAWrongStatus(t *testing.T) {
	cache := defaultCache()
	pin := matrix.SDK{Language: "python", Version: demoSDK}
	if _, err := os.Stat(filepath.Join(cache, "python", pin.Version, "installed.txt")); err != nil {
		t.Skip("needs the Python SDK " + pin.Version + ": make sdk-python installs it")
	}
	t.Chdir("..")
	for status, green := range map[int]bool{http.StatusCreated: true, http.StatusOK: false} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			gateway := httptest.NewServer(answers(status))
			defer gateway.Close()
			cfg := config{cache: t.TempDir(), filter: "test_the_default_template_is_base"}
			require.NoError(t, os.MkdirAll(cfg.reports(), 0o755))
			require.NoError(t, os.Symlink(filepath.Join(cache, "python"), filepath.Join(cfg.cache, "python")))
			cmd, err := command(t.Context(), cfg, pin)
			require.NoError(t, err)
			cmd.Env = append(os.Environ(), "E2B_API_URL="+gateway.URL, "E2B_SANDBOX_URL="+gateway.URL, "E2B_API_KEY=e2b_00", "PYTHONDONTWRITEBYTECODE=1")
			out, err := cmd.CombinedOutput()
			require.Equal(t, green, err == nil, string(out))
			report, err := matrix.Read(pin.File(cfg.reports()))
			require.NoError(t, err)
			require.Equal(t, green, report["create"].Failed == 0)
		})
	}
}
