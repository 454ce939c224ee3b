package metadata

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMetadataComesFromHeaders(t *testing.T) {
	h := http.Header{}
	h.Set("x-metadata-Purpose", "demo")
	h.Set("X-Metadata-", "nameless")
	h.Set("X-Other", "x")
	h["X-Metadata-Twice"] = []string{"1", "2"}
	got, err := FromHeader(h)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"purpose": "demo", "twice": "1"}, got)
	for name, bad := range map[string]http.Header{
		"a long key":              {"X-Metadata-" + strings.Repeat("a", 247): {"x"}},
		"too much in all":         {"X-Metadata-A": {strings.Repeat("a", 4096)}},
		"a value with a tab":      {"X-Metadata-A": {"a\tb"}},
		"a value beyond US-ASCII": {"X-Metadata-A": {"ä"}},
	} {
		t.Run(name+" is refused", func(t *testing.T) {
			_, err := FromHeader(bad)
			require.ErrorContains(t, err, "invalid metadata")
		})
	}
}

func TestMetadataIsReplacedAsAWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f, err := os.Create(path)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	require.NoError(t, Write(f, map[string]string{"a": "1", "b": "2"}))
	if Read(path) == nil {
		t.Skip("needs a temporary directory on a file system with user extended attributes")
	}
	require.Equal(t, map[string]string{"a": "1", "b": "2"}, Read(path))
	require.NoError(t, Write(f, map[string]string{"b": "3"}))
	require.Equal(t, map[string]string{"b": "3"}, Read(path))
	require.NoError(t, Write(f, nil))
	require.Empty(t, Read(path))
	require.Nil(t, Read(filepath.Join(t.TempDir(), "missing")))
}

func TestAFileSystemWithoutAttributesKeepsNone(t *testing.T) {
	f, err := os.Open("/proc/self/status")
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	require.NoError(t, Write(f, map[string]string{"a": "1"}))
	require.Empty(t, Read("/proc/self/status"))
}
