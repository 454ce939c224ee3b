package controller_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// TestWhatTheDocsSayOfKubectl does what docs/mounts.md tells to do, as kubectl does it.
func TestWhatTheDocsSayOfKubectl(t *testing.T) {
	text, err := os.ReadFile("../../docs/mounts.md")
	require.NoError(t, err)
	applied := regexp.MustCompile(`(?s)kubectl apply --server-side --field-manager (\w+) -f - <<'EOF'\n(.*?)\nEOF\n`).FindSubmatch(text)
	patches := regexp.MustCompile(`(?s)kubectl patch sandbox NAME --type json -p '(.*?)'\n`).FindAllSubmatch(text, -1)
	require.NotNil(t, applied)
	require.Len(t, patches, 2)
	add, all := string(patches[0][1]), string(patches[1][1])

	w := newWorld(t)
	w.volumes.mu.Lock()
	w.volumes.all["oss-pv-sandbox-system"] = w.volumes.all["pv-b"]
	w.volumes.mu.Unlock()
	sb := w.handedOut("pool", dataA())
	w.phases(sb, "a Mounted")
	patch := func(kind types.PatchType, body string, opts ...client.PatchOption) {
		t.Helper()
		body = strings.ReplaceAll(body, "NAME", sb.Name)
		require.NoError(t, w.client.Patch(t.Context(), &v1alpha1.Sandbox{ObjectMeta: sb.ObjectMeta}, client.RawPatch(kind, []byte(body)), opts...))
	}
	owner := client.FieldOwner(applied[1])
	patch(types.ApplyPatchType, string(applied[2]), owner)
	w.phases(sb, "a Mounted", "reports Mounted")
	patch(types.ApplyPatchType, regexp.MustCompile(`(?s)mounts:.*`).ReplaceAllString(string(applied[2]), "mounts: []"), owner)
	w.phases(sb, "a Mounted")
	patch(types.JSONPatchType, add)
	w.phases(sb, "a Mounted", "reports Mounted")
	require.Zero(t, w.fitter.count("unpublish h-pv-a /data/a"))
	patch(types.JSONPatchType, all)
	w.phases(sb)
}
