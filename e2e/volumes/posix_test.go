package volumes_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// docs/backends.md says so.
func TestWhatProgramsCanDoOnEachKindOfVolume(t *testing.T) {
	w := begin(t, "../testdata/faults/set.yaml")
	sb, err := w.Create(t.Context(), "pool", `,"timeout":300`)
	require.NoError(t, err)
	able, err := os.ReadFile("../testdata/volumes/able.py")
	require.NoError(t, err)
	const all = "symlink link rename renamedir append truncate chmod xattr unlinked lock mapped fifo allocate "
	for volume, want := range map[string]string{
		memory: all,
		shared: all,
		// s3fs 1.90, which Debian 12 has, makes zeros of a file that is cut by its name. When this is red with another version, docs can say so.
		bucket: "symlink rename renamedir append unlinked lock mapped fifo ",
	} {
		mount(t, w, sb, volume, "/"+volume, "able")
		got, err := w.Run(t.Context(), sb, "python3 - /"+volume+" <<'END'\n"+string(able)+"END\n")
		require.NoError(t, err)
		require.Equal(t, want, got, volume)
	}
}
