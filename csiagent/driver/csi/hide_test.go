package csi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/driver/csi"
)

// keys are secrets of more than one line.
var keys = map[string]string{
	"pem":      "-----BEGIN PRIVATE KEY-----\r\nCANARYIBADANBgkqhkiG9w0BAQEFAASC\r\nCANARYSjAgEAAoIBAQC7VJTUt9Us8cKj\r\n-----END PRIVATE KEY-----\r\n",
	"json":     "{\n  \"id\": \"CANARY<1>\",\n  \"key\": \"-----BEGIN KEY-----\\nCANARYBcwggSjAgEAAoI\\nCANARYbQC7VJTUt9\\n\"\n}\n",
	"compact":  `{"id":"CANARY&2","key":"-----BEGIN KEY-----\nCANARYvQIBADANBgkqh\nCANARYkiG9w0BAQEF\n"}`,
	"password": `CANARY"<\>`,
}

func quoted(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}

func TestASecretIsHiddenInWhateverWayAPluginWritesIt(t *testing.T) {
	var hide csi.Hide
	hide.Add(keys)
	for name, v := range keys {
		var plain strings.Builder // as JSON is written by others
		e := json.NewEncoder(&plain)
		e.SetEscapeHTML(false)
		require.NoError(t, e.Encode(v))
		for how, text := range map[string]string{
			"as it is":       "key: " + v,
			"quoted":         "key: " + strconv.Quote(v),
			"as JSON":        "request: " + quoted(t, map[string]string{"secret": v}),
			"as plain JSON":  "request: " + plain.String(),
			"without spaces": "key: " + strings.TrimSpace(v),
		} {
			for line := range strings.Lines(text) {
				require.NotContains(t, hide.Text(line), "CANARY", name+" "+how)
			}
		}
	}
	var inner struct{ Key string }
	require.NoError(t, json.Unmarshal([]byte(keys["json"]), &inner))
	for line := range strings.Lines(inner.Key) {
		require.NotContains(t, hide.Text(line), "CANARY", "the key that is in it")
	}
	require.NotContains(t, hide.Text(quoted(t, quoted(t, keys["pem"]))), "CANARY", "JSON in JSON")
	for _, text := range []string{"{", "}", `{ "id": 1 }`, "mount of key failed"} {
		require.Equal(t, text, hide.Text(text), "this tells nothing")
	}
}

func TestALineThatIsCutMayHoldAPartOfASecretAndIsLeftOut(t *testing.T) {
	long := strings.Repeat("x", 8<<10-10)
	said := filepath.Join(t.TempDir(), "said")
	require.NoError(t, os.WriteFile(said, []byte("begins\n"+long+"CANARY-publish\nkey CANARY-publish and more\r\nends with CANARY-pub"), 0o600))
	read, write := io.Pipe()
	child := &csi.Child{
		Command: []string{"cat", said}, Env: os.Environ(), Socket: filepath.Join(t.TempDir(), "s"), Hide: &csi.Hide{},
		Logger: slog.New(slog.NewTextHandler(write, nil)),
	}
	child.Hide.Add(volume().Secret)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- child.Run(ctx) }()
	var lines []string
	for log := bufio.NewScanner(read); len(lines) < 4 && log.Scan(); {
		if _, line, is := strings.Cut(log.Text(), `msg="plugin says`); is {
			lines = append(lines, line)
		}
	}
	require.NoError(t, read.Close())
	cancel()
	require.NoError(t, <-done)
	require.NotContains(t, strings.Join(lines, "\n"), "CANARY")
	require.Equal(t, `" line=begins`, lines[0])
	require.Contains(t, lines[1], "left out")
	require.Equal(t, `" line="key [redacted] and more"`, lines[2])
	require.Contains(t, lines[3], "left out")
}
