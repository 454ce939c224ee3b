//go:build linux

package attach

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// beforeDetachedClones makes openTree answer as kernels before 6.15 do: EINVAL, unless the calling thread's mount namespace has
// the mount. It returns how often that was the answer.
func beforeDetachedClones(t *testing.T) *int {
	t.Helper()
	today, refused := openTree, 0
	t.Cleanup(func() { openTree = today })
	openTree = func(dir int) (int, error) {
		id, _, err := identity(dir, "")
		if err != nil {
			return -1, err
		}
		if _, there, err := tableID(id); err != nil || !there {
			refused++
			return -1, unix.EINVAL
		}
		return today(dir)
	}
	return &refused
}

// detached is a tmpfs that is mounted nowhere.
func detached(t *testing.T) *os.File {
	t.Helper()
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	require.NoError(t, err)
	defer closeFD(fs)
	require.NoError(t, unix.FsconfigCreate(fs))
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "volume")
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// listed says whether the mount that f is in is in this process's mount table.
func listed(t *testing.T, f *os.File) bool {
	t.Helper()
	id, _, err := identity(int(f.Fd()), "")
	require.NoError(t, err)
	if id < firstUnique {
		t.Skip("needs a kernel that gives mounts unique IDs (6.8) to tell them apart")
	}
	_, there, err := tableID(id)
	require.NoError(t, err)
	return there
}

func TestAKernelThatClonesOnlyWhatIsMounted(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: makes and moves mounts")
	}
	for name, c := range map[string]struct {
		options CloneOptions
		sees    string
	}{
		"clones a detached volume":             {CloneOptions{}, "tenant/"},
		"clones a directory of it":             {CloneOptions{SubPath: "tenant"}, "mine"},
		"makes the directory":                  {CloneOptions{SubPath: "tenant/new", MakeSubPath: true}, ""},
		"clones it so that writes are refused": {CloneOptions{ReadOnly: true}, "tenant/"},
	} {
		t.Run(name, func(t *testing.T) {
			refused := beforeDetachedClones(t)
			v := detached(t)
			inside := fmt.Sprintf("/proc/self/fd/%d/", v.Fd())
			require.NoError(t, os.Mkdir(inside+"tenant", 0o755))
			require.NoError(t, os.WriteFile(inside+"tenant/mine", nil, 0o644))
			require.False(t, listed(t, v))
			tree, err := Clone(v, c.options)
			require.NoError(t, err)
			defer func() { require.NoError(t, tree.Close()) }()
			require.Equal(t, 1, *refused, "the kernel that is played here refuses")
			require.False(t, listed(t, v), "nothing is mounted here")

			require.NoError(t, v.Close(), "the tree needs nothing of the volume's descriptor")
			root := fmt.Sprintf("/proc/self/fd/%d", tree.f.Fd())
			require.Equal(t, c.sees, listing(t, root))
			err = os.WriteFile(root+"/written", nil, 0o644)
			if c.options.ReadOnly {
				require.ErrorIs(t, err, unix.EROFS)
			} else {
				require.NoError(t, err)
			}
			var st unix.Statfs_t
			require.NoError(t, unix.Fstatfs(int(tree.f.Fd()), &st))
			require.NotZero(t, st.Flags&unix.ST_NOSUID)
			require.NotZero(t, st.Flags&unix.ST_NODEV)
		})
	}
}

func TestAKernelThatClonesOnlyWhatIsMountedClonesItAgainAndAgain(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: makes and moves mounts")
	}
	beforeDetachedClones(t)
	v := detached(t)
	require.NoError(t, os.WriteFile(fmt.Sprintf("/proc/self/fd/%d/mine", v.Fd()), nil, 0o644))
	for range 3 {
		tree, err := Clone(v, CloneOptions{ReadOnly: true})
		require.NoError(t, err)
		require.Equal(t, "mine", listing(t, fmt.Sprintf("/proc/self/fd/%d", tree.f.Fd())))
		again, err := Clone(tree.Root(), CloneOptions{})
		require.NoError(t, err)
		require.NoError(t, tree.Close())
		require.Equal(t, "mine", listing(t, fmt.Sprintf("/proc/self/fd/%d", again.f.Fd())))
		require.NoError(t, again.Close())
	}
	old, full := openTree, false
	openTree = func(dir int) (int, error) {
		fd, err := old(dir)
		if err == nil && full {
			closeFD(fd)
			return -1, unix.ENOSPC
		}
		return fd, err
	}
	full = true
	_, err := Clone(v, CloneOptions{})
	require.ErrorIs(t, err, ErrNoClone, "it could not be saved")
	full = false
	_, err = Clone(v, CloneOptions{})
	require.ErrorIs(t, err, ErrNoClone, "and is known to be gone")
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() {
			name += "/"
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

func TestWhatCannotBeClonedAtAllStaysWhereItIs(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: makes mounts")
	}
	dir := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	require.NoError(t, unix.Mount("", dir, "", unix.MS_UNBINDABLE, ""))
	root, err := os.Open(dir)
	require.NoError(t, err)
	defer func() { _ = root.Close() }()
	require.True(t, listed(t, root))
	_, err = Clone(root, CloneOptions{})
	require.ErrorIs(t, err, unix.EINVAL)
	require.True(t, listed(t, root))
}
