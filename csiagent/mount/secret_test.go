package mount_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

func TestASecretDoesNotPrintItself(t *testing.T) {
	m := mount.Mount{Secret: mount.Secret{"akSecret": "canary"}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, value := range []any{m.Secret, m, &m, []mount.Mount{m}} {
			text := fmt.Sprintf(verb, value)
			require.NotContains(t, text, "canary", verb)
			require.NotContains(t, text, "akSecret", verb)
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", m.Secret, "mount", m)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", m.Secret, "mount", m)
	raw, err := json.Marshal(m)
	require.NoError(t, err)
	require.NotContains(t, log.String()+string(raw), "canary")
}
