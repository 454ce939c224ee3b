package volumes_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/e2e/world"
)

// begin starts a world, and proves at the end that nothing of it is left.
func begin(t *testing.T, set string) *world.World {
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
	w, err := world.Start(t.Context(), world.Config{Bin: bin, Manifests: []string{set, "../testdata/seed/oss.yaml", "../testdata/world/volumes.yaml"}})
	require.NoError(t, err)
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
	return w
}

// The volumes of the manifests, one of each kind that a machine without NFS has.
const (
	bucket = "oss-pv-sandbox-system"
	shared = "shared"
	memory = "scratch"
)

// mounted is a mount as the API tells it.
type mounted struct{ MountID, PVName, MountPath, Phase, Message string }

// mount mounts a volume into a running sandbox. The same again is the same mount.
func mount(t *testing.T, w *world.World, sb world.Sandbox, volume, path, sub string) mounted {
	t.Helper()
	status, body, err := w.Call(t.Context(), http.MethodPost, "/sandboxes/"+sb.ID+"/mounts",
		fmt.Sprintf(`{"pvName":%q,"mountPath":%q,"subPath":%q}`, volume, path, sub))
	require.NoError(t, err)
	require.Contains(t, []int{http.StatusOK, http.StatusCreated}, status, string(body))
	var m mounted
	require.NoError(t, json.Unmarshal(body, &m))
	return m
}

// unmount takes a mount away; nothing of what was written may be missing.
func unmount(t *testing.T, w *world.World, sb world.Sandbox, m mounted) {
	t.Helper()
	status, body, err := w.Call(t.Context(), http.MethodDelete, "/sandboxes/"+sb.ID+"/mounts/"+m.MountID, "")
	require.NoError(t, err)
	require.Equal(t, http.StatusNoContent, status, string(body))
}

func mounts(t *testing.T, w *world.World, sb world.Sandbox) []mounted {
	t.Helper()
	status, body, err := w.Call(t.Context(), http.MethodGet, "/sandboxes/"+sb.ID+"/mounts", "")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status, string(body))
	var answer struct{ Mounts []mounted }
	require.NoError(t, json.Unmarshal(body, &answer))
	return answer.Mounts
}

// clients are the FUSE clients of a sandbox.
func clients(t *testing.T, w *world.World, sb world.Sandbox) (out []int) {
	t.Helper()
	all, err := w.Processes("s3fs")
	require.NoError(t, err)
	for _, pid := range all {
		if strings.Contains(w.Places(pid), sb.ID) {
			out = append(out, pid)
		}
	}
	return out
}
