package tmpfs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/driver/tmpfs"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

func volume(size string) mount.Mount {
	return mount.Mount{Attributes: map[string]string{"size": size}, Owner: mount.Owner{UID: 1000, GID: 1001}}
}

func made(t *testing.T, m mount.Mount) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes a file system")
	}
	src, err := (&tmpfs.Driver{}).Mount(t.Context(), m, "")
	require.NoError(t, err)
	t.Cleanup(func() { _ = src.Root.Close() })
	require.Equal(t, "tmpfs", src.FSType)
	require.Equal(t, m.SubPath, src.SubPath)
	require.False(t, src.Remote)
	require.False(t, mounted(t, src.Root), "it is in no mount table")
	return "/proc/self/fd/" + strconv.Itoa(int(src.Root.Fd()))
}

// mounted says whether the file system of root is in this process's mount table, where others come and go.
func mounted(t *testing.T, root *os.File) bool {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Fstat(int(root.Fd()), &st))
	b, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	return strings.Contains(string(b), fmt.Sprintf(" %d:%d ", unix.Major(st.Dev), unix.Minor(st.Dev)))
}

func TestItBelongsToTheOwnerOfTheMount(t *testing.T) {
	var st unix.Stat_t
	require.NoError(t, unix.Stat(made(t, volume("1Mi")), &st))
	require.Equal(t, []uint32{1000, 1001, 0o755}, []uint32{st.Uid, st.Gid, st.Mode & 0o7777})
}

func TestItIsFullAtItsSize(t *testing.T) {
	dir := made(t, volume("64Ki"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a"), make([]byte, 60<<10), 0o600))
	require.ErrorIs(t, os.WriteFile(filepath.Join(dir, "b"), make([]byte, 60<<10), 0o600), unix.ENOSPC)
}

func TestItIsFullAtItsNumberOfFiles(t *testing.T) {
	m := volume("1Mi")
	m.Attributes["inodes"] = "3"
	dir := made(t, m)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "b"), nil, 0o600))
	require.ErrorIs(t, os.WriteFile(filepath.Join(dir, "c"), nil, 0o600), unix.ENOSPC)

	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(made(t, volume("1Gi")), &st))
	require.EqualValues(t, 65536, st.Files, "one inode for 16 KiB unless told")
}

func TestReadOnlyHoldsAgainstRoot(t *testing.T) {
	for name, change := range map[string]func(*mount.Mount){
		"asked by the caller":     func(m *mount.Mount) { m.ReadOnly = true },
		"by the volume's options": func(m *mount.Mount) { m.Options = []string{"ro"} },
		"by its access mode":      func(m *mount.Mount) { m.AccessMode = mount.ReadOnlyMany },
	} {
		t.Run(name, func(t *testing.T) {
			m := volume("1Mi")
			change(&m)
			require.ErrorIs(t, os.WriteFile(filepath.Join(made(t, m), "a"), nil, 0o600), unix.EROFS)
		})
	}
}

func TestNoSetuidAndNoDevices(t *testing.T) {
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(made(t, volume("1Mi")), &st))
	require.EqualValues(t, unix.ST_NOSUID|unix.ST_NODEV, st.Flags&(unix.ST_NOSUID|unix.ST_NODEV))
}

func TestBadVolumesAreRefusedWithTheNameOfTheAttribute(t *testing.T) {
	for name, c := range map[string]struct {
		attributes map[string]string
		options    []string
		want       string
	}{
		"no size":            {map[string]string{}, nil, "size"},
		"a size in words":    {map[string]string{"size": "big"}, nil, "size"},
		"size zero":          {map[string]string{"size": "0"}, nil, "size"},
		"a negative size":    {map[string]string{"size": "-1Gi"}, nil, "size"},
		"half a byte":        {map[string]string{"size": "500m"}, nil, "size"},
		"too much":           {map[string]string{"size": "1Ti"}, nil, "at most"},
		"no inodes":          {map[string]string{"size": "1Mi", "inodes": "0"}, nil, "inodes"},
		"inodes in words":    {map[string]string{"size": "1Mi", "inodes": "1,mode=777"}, nil, "inodes"},
		"an unknown name":    {map[string]string{"size": "1Mi", "mode": "0777"}, nil, `"mode"`},
		"a name in capitals": {map[string]string{"Size": "1Mi"}, nil, `"Size"`},
		"an unknown option":  {map[string]string{"size": "1Mi"}, []string{"huge=always"}, "huge"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := (&tmpfs.Driver{MaxSize: 1 << 30}).Mount(t.Context(), mount.Mount{Attributes: c.attributes, Options: c.options}, "")
			require.ErrorIs(t, err, mount.ErrInvalid)
			require.ErrorContains(t, err, c.want)
		})
	}
}
