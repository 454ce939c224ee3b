package subdir

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it gives directories to another user")
	}
}

func maker(mode uint32) Maker {
	return Maker{Owner: mount.Owner{UID: 1000, GID: 1001}, Mode: mode, Resolve: Strict}
}

// open opens dir/rel by m as a walk does.
func (m Maker) open(dir, rel string) error {
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for _, name := range strings.Split(rel, "/") {
		if err != nil {
			return err
		}
		above := at
		at, err = m.Open(above, name)
		closeFD(above)
	}
	if err == nil {
		closeFD(at)
	}
	return err
}

// owned is a directory's mode and whose it is.
func owned(t *testing.T, dir string) string {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(dir, &st))
	return fmt.Sprintf("%o %d:%d", st.Mode&0o7777, st.Uid, st.Gid)
}

// as runs f with the rights in file systems that a user has on this machine.
func as(uid int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Setfsgid(uid)
		if err == nil {
			err = unix.Setfsuid(uid)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// without runs f without capabilities.
func without(caps uint32, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // as above
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		err := unix.Capget(&header, &data[0])
		data[0].Effective &^= caps
		if err == nil {
			err = unix.Capset(&header, &data[0])
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func TestWhatIsMissingIsMadeForItsOwner(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(top, "old"), 0o711))
	mask := unix.Umask(0o077)
	defer unix.Umask(mask)
	require.NoError(t, maker(0o2775).open(top, "old/a/b"))
	require.Equal(t, "711 0:0", owned(t, top+"/old"))
	require.Equal(t, "2775 1000:1001", owned(t, top+"/old/a"))
	require.Equal(t, "2775 1000:1001", owned(t, top+"/old/a/b"))

	require.NoError(t, os.WriteFile(top+"/file", nil, 0o600))
	require.ErrorIs(t, maker(0o755).open(top, "file/a"), unix.ENOTDIR)
	err := maker(0o755).open("/proc", "nothing-can-be-made-here")
	require.ErrorIs(t, err, ErrNotMade)
	require.ErrorIs(t, err, unix.ENOENT, "as the kernel says")
}

func TestOnlyADirectoryThatWasMadeHereIsGivenAway(t *testing.T) {
	needRoot(t)
	for name, c := range map[string]struct {
		mode  uint32
		made  bool // by him who looks, though another one may be in its place
		entry string
		want  string
	}{
		"one that was made and not given away":              {mode: first, want: "755 1000:1001"},
		"the same, in a directory that gives its group on":  {mode: 0o2000 | first, want: "755 1000:1001"},
		"one that has entries":                              {mode: first, entry: "theirs", want: "1500 0:0"},
		"one that only its owner reads":                     {mode: 0o500, want: "500 0:0"},
		"another's":                                         {mode: 0o700, want: "700 0:0"},
		"another's, in the place of the new one":            {mode: 0o700, made: true, want: "700 0:0"},
		"the same, with a sticky bit":                       {mode: 0o1700, made: true, want: "1700 0:0"},
		"one that nobody may enter":                         {mode: 0, made: true, want: "0 0:0"},
		"one where one mode is for all":                     {mode: 0o777, made: true, want: "777 0:0"},
		"the new one where no sticky bit is kept":           {mode: 0o500, made: true, want: "755 1000:1001"},
		"another's with entries, in the place of a new one": {mode: 0o500, made: true, entry: "theirs", want: "500 0:0"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if c.entry != "" {
				require.NoError(t, os.WriteFile(filepath.Join(dir, c.entry), nil, 0o600))
			}
			require.NoError(t, unix.Chmod(dir, c.mode))
			fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			require.NoError(t, err)
			defer closeFD(fd)
			require.NoError(t, maker(0o755).finish(fd, c.made))
			require.Equal(t, c.want, owned(t, dir))
		})
	}
}

// together has four make directories below the same missing ones, again and again.
func together(t *testing.T, open func(dir, rel string) error) {
	t.Helper()
	top := t.TempDir()
	for round := range 200 {
		var g errgroup.Group
		for i := range 4 {
			g.Go(func() error { return open(top, fmt.Sprintf("%d/deep/er/%d", round, i)) })
		}
		require.NoError(t, g.Wait())
		at := filepath.Join(top, strconv.Itoa(round))
		for _, rel := range []string{"", "deep", "deep/er", "deep/er/0", "deep/er/1", "deep/er/2", "deep/er/3"} {
			require.Equal(t, "755 1000:1001", owned(t, filepath.Join(at, rel)), rel)
		}
	}
}

func TestThoseWhoLackTheSameDirectoriesMakeThemTogether(t *testing.T) {
	needRoot(t)
	together(t, maker(0o755).open)
}

func TestAnAgentInAPodMakesDirectoriesWithItsFewCapabilities(t *testing.T) {
	needRoot(t)
	together(t, func(dir, rel string) error {
		return without(1<<unix.CAP_FOWNER|1<<unix.CAP_FSETID, func() error { return maker(0o755).open(dir, rel) })
	})
}

// A server that squashes root makes directories for somebody who may not give them away.
func TestADirectoryThatCannotBeGivenAwayIsRemoved(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(top), 0o755))
	require.NoError(t, os.Chmod(top, 0o777))
	for range 2 { // the same error again
		err := as(65534, func() error { return maker(0o755).open(top, "new") })
		require.ErrorIs(t, err, ErrNotGiven)
		require.ErrorIs(t, err, unix.EPERM)
		require.NoDirExists(t, top+"/new")
	}
	require.NoError(t, as(65534, func() error { return maker(0o777).open(top, "all/in") }))
	require.Equal(t, "777 65534:65534", owned(t, top+"/all"))
	require.Equal(t, "777 65534:65534", owned(t, top+"/all/in"))
	owner := Maker{Owner: mount.Owner{UID: 65534, GID: 65534}, Mode: 0o750, Resolve: Strict}
	require.NoError(t, as(65534, func() error { return owner.open(top, "own") }))
	require.Equal(t, "750 65534:65534", owned(t, top+"/own"))
}
