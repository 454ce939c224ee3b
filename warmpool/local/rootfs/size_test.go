package rootfs

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// occupied is what the entries at paths occupy.
func occupied(t *testing.T, paths ...string) (sum int64) {
	t.Helper()
	for _, path := range paths {
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(path, &st))
		sum += st.Blocks * 512
	}
	return sum
}

func fill(t *testing.T, path string, size int) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, make([]byte, size), 0o600))
	return path
}

func TestTheSizeOfTreesIsWhatTheirEntriesOccupy(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	a, b, c := fill(t, filepath.Join(one, "a"), 9000), fill(t, filepath.Join(one, "d/e/b"), 100_000), fill(t, filepath.Join(two, "c"), 20_000)
	want := occupied(t, a, b, c, filepath.Join(one, "d"), filepath.Join(one, "d/e"))
	require.NotZero(t, want)
	require.Equal(t, want, Size(100, one, filepath.Join(one, "missing"), two))
	require.Equal(t, want, Size(5, one, two))
	require.Less(t, Size(4, one, two), want)
	require.Zero(t, Size(0, one, two))
}

func TestTheSizeOfATreeIsItsOwn(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts a tmpfs")
	}
	dir, outside := t.TempDir(), t.TempDir()
	fill(t, filepath.Join(outside, "big"), 1<<20)
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "link")))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	at := filepath.Join(dir, "mount")
	require.NoError(t, os.Mkdir(at, 0o755))
	require.NoError(t, unix.Mount("tmpfs", at, "tmpfs", 0, "size=2m"))
	defer func() { require.NoError(t, unix.Unmount(at, unix.MNT_DETACH)) }()
	fill(t, filepath.Join(at, "big"), 1<<20)
	require.Less(t, Size(100, dir), int64(1<<20))
	require.Zero(t, Size(100, filepath.Join(dir, "link")))
}

// A tenant may put another thing in a directory's place after it was looked at.
func TestWhatIsNoDirectoryIsNotEntered(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	require.NoError(t, os.Symlink("sub", filepath.Join(dir, "link")))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	top, err := os.Open(dir)
	require.NoError(t, err)
	defer func() { _ = top.Close() }()
	for _, name := range []string{"link", "fifo", ".."} { // to open a pipe would wait for its other end
		_, err := enter(top, name)
		require.Error(t, err, name)
	}
	sub, err := enter(top, "sub")
	require.NoError(t, err)
	require.NoError(t, sub.Close())
}

func TestTheSizeOfADirectoryOfVeryManyFilesTakesLittleMemory(t *testing.T) {
	dir := t.TempDir()
	file := fill(t, filepath.Join(dir, "file"), 0)
	for i := range 20_000 {
		require.NoError(t, os.Link(file, filepath.Join(dir, strconv.Itoa(i)+strings.Repeat("n", 200))))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	Size(1000, dir)
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

func TestTheSizeOfATreeThatChangesIsCountedToAnEnd(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	fill(t, filepath.Join(a, "file"), 1)
	require.NoError(t, unix.Mkfifo(b, 0o600))
	stop, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range 2000 {
		Size(math.MaxInt, dir)
	}
	close(stop)
	<-over
}

func TestTheSizeOfATreeIsCountedToADepth(t *testing.T) {
	dir := t.TempDir()
	for at, level := dir, 0; level < 2*deepest; at, level = filepath.Join(at, "d"), level+1 {
		require.NoError(t, os.WriteFile(filepath.Join(at, "f"), make([]byte, 4096), 0o600))
		require.NoError(t, os.Mkdir(filepath.Join(at, "d"), 0o755))
	}
	want := occupied(t, dir) + occupied(t, filepath.Join(dir, "f")) // of one level
	require.Positive(t, want)
	require.Equal(t, want*deepest, Size(1000, dir))
}
