package faults_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/e2e/faults"
	"github.com/sandgate-dev/sandgate/e2e/world"
)

const (
	tmpfs = `,"timeout":120,"volumeMounts":[{"name":"scratch","path":"/data"}]`
	oss   = `,"timeout":120,"volumeMounts":[{"name":"relayed","path":"/data"}]`
	three = `,"timeout":120,"volumeMounts":[{"name":"scratch","path":"/mem"},{"name":"shared","path":"/host"},{"name":"relayed","path":"/data"}]`
)

// stage is a world whose object store can be cut off.
type stage struct {
	*world.World
	relay *faults.Relay
}

// begin starts a stage with a pool of 3, and proves at the end that nothing of it is left.
func begin(t *testing.T, args ...string) *stage {
	return beginWith(t, "../testdata/faults/set.yaml", args...)
}

func beginWith(t *testing.T, set string, args ...string) *stage {
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
	relay, err := faults.Listen(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, relay.End()) })
	text, err := os.ReadFile("../testdata/faults/relayed.yaml")
	require.NoError(t, err)
	volume := filepath.Join(t.TempDir(), "relayed.yaml")
	require.NoError(t, os.WriteFile(volume, []byte(strings.ReplaceAll(string(text), "<RELAY>", relay.Addr())), 0o600))
	w, err := world.Start(t.Context(), world.Config{Bin: bin, Manifests: []string{set, volume, "../testdata/world/volumes.yaml"}, Args: args})
	require.NoError(t, err)
	relay.To(strings.TrimPrefix(w.Store.URL, "http://"))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		if t.Failed() {
			log, _ := os.ReadFile(w.Log())
			t.Logf("the gateway's log:\n%s", log[max(0, len(log)-8<<10):])
		}
		left, err := w.Close(ctx)
		require.NoError(t, err)
		require.Empty(t, left)
	})
	return &stage{w, relay}
}

// settled waits until all that can be known of the sandboxes agrees.
func (s *stage) settled(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 45*time.Second)
	defer cancel()
	wrong, err := s.Settle(ctx)
	require.NoError(t, err)
	require.Empty(t, wrong)
}

// works proves a sandbox by a command that writes and reads a file in each directory.
func (s *stage) works(t *testing.T, sb world.Sandbox, dirs ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	command := "set -e"
	for _, dir := range dirs {
		command += "; echo kept > " + dir + "/" + sb.ID + "; cat " + dir + "/" + sb.ID
	}
	out, err := s.Run(ctx, sb, command)
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("kept\n", len(dirs)), out)
}

// crash kills the gateway and starts it again on the same state.
func (s *stage) crash(t *testing.T) {
	t.Helper()
	require.NoError(t, s.Crash(t.Context()))
	require.NoError(t, s.Serve(t.Context()))
}

// listed says whether the API lists a sandbox.
func (s *stage) listed(t *testing.T, id string) bool {
	t.Helper()
	ids, err := s.Listed(t.Context())
	require.NoError(t, err)
	return strings.Contains(strings.Join(ids, " "), id)
}

// mounted is a mount as the API tells it.
type mounted struct{ PVName, Phase, Message string }

func (s *stage) mounts(t *testing.T, id string) []mounted {
	t.Helper()
	status, body, err := s.Call(t.Context(), http.MethodGet, "/sandboxes/"+id+"/mounts", "")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	var answer struct{ Mounts []mounted }
	require.NoError(t, json.Unmarshal(body, &answer))
	return answer.Mounts
}

// pids are the processes of one name in a sandbox, or in the whole world when it is "".
func (s *stage) pids(t *testing.T, name, id string) []int {
	t.Helper()
	all, err := s.Processes(name)
	require.NoError(t, err)
	var out []int
	for _, pid := range all {
		if strings.Contains(s.Places(pid), id) {
			out = append(out, pid)
		}
	}
	return out
}

func (s *stage) signal(t *testing.T, sig syscall.Signal, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); !errors.Is(err, syscall.ESRCH) {
			require.NoError(t, err)
		}
	}
}

// requireClear refuses an error that a caller could not act on: it must be an answer of the API with a reason.
func requireClear(t *testing.T, err error) *world.StatusError {
	t.Helper()
	var status *world.StatusError
	require.ErrorAs(t, err, &status)
	var body struct {
		Code    int
		Message string
	}
	require.NoError(t, json.Unmarshal([]byte(status.Body), &body), status.Body)
	require.Equal(t, status.Status, body.Code)
	require.NotEmpty(t, body.Message)
	return status
}

// steps are moments spread over twice a duration: several at once take longer than one alone.
func steps(n int, d time.Duration) []time.Duration {
	out := make([]time.Duration, n)
	for i := range out {
		out[i] = 2 * d * time.Duration(i) / time.Duration(n)
	}
	return out
}

// measure is how long a create takes with everything warm.
func (s *stage) measure(t *testing.T, more string) time.Duration {
	t.Helper()
	took := time.Hour
	for range 3 {
		s.settled(t)
		began := time.Now()
		sb, err := s.Create(t.Context(), "pool", more)
		require.NoError(t, err)
		took = min(took, time.Since(began))
		require.NoError(t, s.Kill(t.Context(), sb))
	}
	return took
}
