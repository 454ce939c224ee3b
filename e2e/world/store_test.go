package world

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheStoreKeepsObjectsAndRefusesAWrongKey(t *testing.T) {
	path := os.Getenv("VERSITYGW")
	if path == "" {
		t.Skip("needs VERSITYGW, the path of the S3 server: make unit sets it")
	}
	store, err := StartStore(t.Context(), path, filepath.Join(t.TempDir(), "store"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.stop(context.Background())) })

	require.NoError(t, os.MkdirAll(filepath.Join(store.Dir, "objects", Bucket, "sub"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(store.Dir, "objects", Bucket, "sub", "hello.txt"), []byte("hello"), 0o644))
	objects, err := store.Objects(t.Context(), "sub/")
	require.NoError(t, err)
	require.Equal(t, []Object{{Key: "sub/hello.txt", Size: 5}}, objects)
	text, err := store.Read(t.Context(), "sub/hello.txt")
	require.NoError(t, err)
	require.Equal(t, "hello", text)

	other, err := store.As(t.Context())
	require.NoError(t, err)
	_, err = other.Read(t.Context(), "sub/hello.txt")
	require.NoError(t, err)
	require.NoError(t, store.Revoke(t.Context(), other))
	_, err = other.Read(t.Context(), "sub/hello.txt")
	require.ErrorContains(t, err, "403")

	wrong := *store
	wrong.Secret = random(20)
	_, err = wrong.Read(t.Context(), "sub/hello.txt")
	require.ErrorContains(t, err, "403")
}
