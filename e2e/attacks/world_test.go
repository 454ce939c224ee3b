package attacks_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/e2e/world"
)

// stage is a world with a marker on its machine that no sandbox may ever see or change.
type stage struct {
	*world.World
	forbidden string // a directory with one file
}

const marker = "MARKER-OF-THE-HOST"

// begin starts a stage, and proves at the end that the marker is untouched and nothing is left.
func begin(t *testing.T) *stage {
	t.Helper()
	bin := os.Getenv("SANDGATE_BIN")
	switch _, err := os.Stat(filepath.Join(bin, "versitygw")); {
	case os.Getuid() != 0:
		t.Skip("needs root: runs containers")
	case bin == "":
		t.Skip("needs SANDGATE_BIN, the directory of built programs: make unit sets it")
	case err != nil:
		t.Skip("needs versitygw in SANDGATE_BIN: make unit builds it")
	}
	w, err := world.Start(t.Context(), world.Config{Bin: bin, Manifests: []string{
		"../testdata/attacks/set.yaml", "../testdata/seed/oss.yaml", "../testdata/world/volumes.yaml"}})
	require.NoError(t, err)
	s := &stage{w, filepath.Join(w.Dir, "forbidden")}
	require.NoError(t, os.Mkdir(s.forbidden, 0o777))
	require.NoError(t, os.Chmod(s.forbidden, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(s.forbidden, "who"), []byte(marker), 0o666))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		if t.Failed() {
			log, _ := os.ReadFile(w.Log())
			t.Logf("the gateway's log:\n%s", log[max(0, len(log)-8<<10):])
		}
		s.untouched(t)
		left, err := w.Close(ctx)
		require.NoError(t, err)
		require.Empty(t, left)
	})
	return s
}

func (s *stage) untouched(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(s.forbidden)
	require.NoError(t, err)
	require.Len(t, entries, 1, "something was made on the host")
	who, err := os.ReadFile(filepath.Join(s.forbidden, "who"))
	require.NoError(t, err)
	require.Equal(t, marker, string(who))
}

func (s *stage) settled(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 45*time.Second)
	defer cancel()
	wrong, err := s.Settle(ctx)
	require.NoError(t, err)
	require.Empty(t, wrong)
}

// mount is one element of a csi-volume-config.
type mount struct {
	Volume   string `json:"pvName"`
	Target   string `json:"mountPath"`
	SubPath  string `json:"subPath,omitempty"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// asking is the rest of a create request's body for mounts.
func asking(t *testing.T, mounts ...mount) string {
	t.Helper()
	config, err := json.Marshal(mounts)
	require.NoError(t, err)
	metadata, err := json.Marshal(map[string]string{"e2b.agents.kruise.io/csi-volume-config": string(config)})
	require.NoError(t, err)
	return `,"timeout":120,"metadata":` + string(metadata)
}

// sandbox makes one that ends with the test.
func (s *stage) sandbox(t *testing.T, mounts ...mount) world.Sandbox {
	t.Helper()
	more := `,"timeout":120`
	if len(mounts) > 0 {
		more = asking(t, mounts...)
	}
	sb, err := s.Create(t.Context(), "pool", more)
	require.NoError(t, err)
	return sb
}

// sh runs a command that must succeed.
func (s *stage) sh(t *testing.T, sb world.Sandbox, user, command string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	out, err := s.RunAs(ctx, sb, user, command)
	require.NoError(t, err, command)
	return out
}

// python runs a script in a sandbox.
func (s *stage) python(t *testing.T, sb world.Sandbox, user, script string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	out, err := s.RunAs(ctx, sb, user, pythonCommand(script, args...))
	require.NoError(t, err, "as %s: %s", user, out)
	return out
}

func pythonCommand(script string, args ...string) string {
	return fmt.Sprintf("f=$(mktemp) && echo %s | base64 -d > $f && /usr/bin/python3 $f %s",
		base64.StdEncoding.EncodeToString([]byte(script)), strings.Join(args, " "))
}

// refused demands an answer below 500 with a message, and returns it.
func refused(t *testing.T, err error, statuses ...int) string {
	t.Helper()
	var status *world.StatusError
	require.ErrorAs(t, err, &status)
	require.Contains(t, statuses, status.Status, status.Body)
	var body struct{ Message string }
	require.NoError(t, json.Unmarshal([]byte(status.Body), &body), status.Body)
	require.NotEmpty(t, body.Message)
	return body.Message
}

// ask makes an API request with a key of the caller's choice.
func (s *stage) ask(t *testing.T, key, method, path, body string) (int, string) {
	t.Helper()
	own := s.Key
	defer func() { s.Key = own }()
	s.Key = key
	status, answer, err := s.Call(t.Context(), method, path, body)
	require.NoError(t, err)
	return status, string(answer)
}
