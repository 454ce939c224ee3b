package hostpath_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/driver/hostpath"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

func volume(path string) mount.Mount {
	return mount.Mount{Spec: mount.Spec{SubPath: "sub"}, Attributes: map[string]string{"path": path}}
}

func driver(t *testing.T, prefixes ...string) *hostpath.Driver {
	t.Helper()
	d, err := hostpath.New(hostpath.Config{Prefixes: prefixes})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func inode(t *testing.T, f *os.File) uint64 {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Fstat(int(f.Fd()), &st))
	return st.Ino
}

func mkdir(t *testing.T, parts ...string) string {
	t.Helper()
	p := filepath.Join(parts...)
	require.NoError(t, os.MkdirAll(p, 0o755))
	return p
}

func TestADirectoryInAnAllowedPrefixIsOffered(t *testing.T) {
	top := t.TempDir()
	deep := mkdir(t, top, "a", "b")
	d := driver(t, top+"/")
	for _, p := range []string{deep, deep + "/", filepath.Join(top, "a") + "//b/."} {
		src, err := d.Mount(t.Context(), volume(p), "")
		require.NoError(t, err, p)
		want, err := os.Open(deep)
		require.NoError(t, err)
		require.Equal(t, inode(t, want), inode(t, src.Root))
		require.Equal(t, "sub", src.SubPath)
		require.NoError(t, want.Close())
		require.NoError(t, src.Root.Close())
	}
	src, err := d.Mount(t.Context(), volume(top), "")
	require.NoError(t, err, "the prefix itself")
	require.NoError(t, src.Root.Close())
}

func TestWhatIsOutsideIsDeniedWithoutSayingWhetherItExists(t *testing.T) {
	top := t.TempDir()
	mkdir(t, top, "in")
	mkdir(t, top, "inside")
	require.NoError(t, os.Symlink("/etc", filepath.Join(top, "in", "etc")))
	require.NoError(t, os.Symlink("inside", filepath.Join(top, "in", "self")))
	require.NoError(t, os.Symlink("in", filepath.Join(top, "alias")))
	require.NoError(t, os.WriteFile(filepath.Join(top, "in", "file"), nil, 0o600))
	d := driver(t, filepath.Join(top, "in"))
	for name, c := range map[string]struct {
		path string
		want error
	}{
		"the root":                           {"/", mount.ErrDenied},
		"another directory":                  {"/etc", mount.ErrDenied},
		"one that does not exist":            {"/nonexistent", mount.ErrDenied},
		"the container runtime's socket":     {"/run/containerd/containerd.sock", mount.ErrDenied},
		"a neighbour with the same start":    {filepath.Join(top, "inside"), mount.ErrDenied},
		"an alias of the prefix":             {filepath.Join(top, "alias"), mount.ErrDenied},
		"the directory above":                {top, mount.ErrDenied},
		"a climb":                            {filepath.Join(top, "in") + "/../inside", mount.ErrInvalid},
		"a relative path":                    {"in", mount.ErrInvalid},
		"nothing":                            {"", mount.ErrInvalid},
		"a NUL":                              {filepath.Join(top, "in") + "/\x00", mount.ErrInvalid},
		"a link that leads out":              {filepath.Join(top, "in", "etc"), mount.ErrDenied},
		"something behind it":                {filepath.Join(top, "in", "etc", "ssl"), mount.ErrDenied},
		"a link that stays in":               {filepath.Join(top, "in", "self"), mount.ErrDenied},
		"a file":                             {filepath.Join(top, "in", "file"), mount.ErrInvalid},
		"a directory that is not there":      {filepath.Join(top, "in", "gone"), mount.ErrNotFound},
		"a name as long as a page of memory": {filepath.Join(top, "in", strings.Repeat("a", 5000)), nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.Mount(t.Context(), volume(c.path), "")
			require.Error(t, err)
			if c.want != nil {
				require.ErrorIs(t, err, c.want)
			}
			require.NotContains(t, err.Error(), top, "no host path in an error")
		})
	}
}

func TestNothingIsAllowedByDefault(t *testing.T) {
	_, err := driver(t).Mount(t.Context(), volume(t.TempDir()), "")
	require.ErrorIs(t, err, mount.ErrDenied)
}

func TestVarRunIsNotAWayToRun(t *testing.T) {
	// /var/run is a link to /run: allowing /var must not open /run, nor allowing one spelling the other.
	_, err := driver(t, "/var").Mount(t.Context(), volume("/var/run"), "")
	require.ErrorIs(t, err, mount.ErrDenied)
	_, err = driver(t, "/run").Mount(t.Context(), volume("/var/run/lock"), "")
	require.ErrorIs(t, err, mount.ErrDenied)
}

func TestAPrefixIsTheDirectoryThatItWasAtTheStart(t *testing.T) {
	top := t.TempDir()
	mkdir(t, top, "allowed")
	mkdir(t, top, "other", "secret")
	d := driver(t, filepath.Join(top, "allowed"))
	require.NoError(t, os.Rename(filepath.Join(top, "allowed"), filepath.Join(top, "moved")))
	require.NoError(t, os.Symlink("other", filepath.Join(top, "allowed")))
	_, err := d.Mount(t.Context(), volume(filepath.Join(top, "allowed", "secret")), "")
	require.ErrorIs(t, err, mount.ErrNotFound)
}

func TestADirectoryAndALinkThatAreSwappedNeverLeadOut(t *testing.T) {
	top := t.TempDir()
	mkdir(t, top, "in", "dir", "x")
	outside := mkdir(t, top, "outside", "x")
	require.NoError(t, os.Symlink("../outside", filepath.Join(top, "in", "link")))
	d := driver(t, filepath.Join(top, "in"))
	out, err := os.Open(outside)
	require.NoError(t, err)
	defer func() { _ = out.Close() }()

	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(top, "in", "dir"), unix.AT_FDCWD, filepath.Join(top, "in", "link"), unix.RENAME_EXCHANGE)
			}
		}
	})
	good := 0
	for range 10_000 {
		src, err := d.Mount(t.Context(), volume(filepath.Join(top, "in", "dir", "x")), "")
		if err != nil {
			continue
		}
		good++
		require.NotEqual(t, inode(t, out), inode(t, src.Root))
		require.NoError(t, src.Root.Close())
	}
	close(stop)
	wg.Wait()
	require.NotZero(t, good, "the race was run from both sides")
}

func TestAMissingDirectoryIsMadeWhenTheVolumeSaysSo(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it gives directories to another user")
	}
	top := t.TempDir()
	mkdir(t, top, ".old")
	d := driver(t, top)
	m := volume(filepath.Join(top, ".old", "new", "deep"))
	m.Owner = mount.Owner{UID: 1000, GID: 1001}
	m.Attributes["type"] = "DirectoryOrCreate"

	m.ReadOnly = true
	_, err := d.Mount(t.Context(), m, "")
	require.ErrorIs(t, err, mount.ErrNotFound, "nothing is made for a reader")
	m.ReadOnly = false

	src, err := d.Mount(t.Context(), m, "")
	require.NoError(t, err)
	require.NoError(t, src.Root.Close())
	for p, uid := range map[string]uint32{".old": 0, ".old/new": 1000, ".old/new/deep": 1000} {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(filepath.Join(top, p), &st))
		require.Equal(t, uid, st.Uid, p)
	}
}

func TestOnlyADirectoryThatWasMadeHereIsGivenAway(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it gives directories to another user")
	}
	for name, c := range map[string]struct {
		mode  uint32
		entry string
		want  string
	}{
		"what an agent has made that ended then": {mode: 0o1500, want: "755 1000"},
		"one that has entries":                   {mode: 0o1500, entry: "theirs", want: "1500 0"},
		"another's":                              {mode: 0o700, want: "700 0"},
		"one that all may enter":                 {mode: 0o1777, want: "1777 0"},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			dir := mkdir(t, top, "dir")
			if c.entry != "" {
				mkdir(t, dir, c.entry)
			}
			require.NoError(t, unix.Chmod(dir, c.mode))
			m := volume(filepath.Join(dir, "new"))
			m.Owner, m.Attributes["type"] = mount.Owner{UID: 1000, GID: 1000}, "DirectoryOrCreate"
			src, err := driver(t, top).Mount(t.Context(), m, "")
			require.NoError(t, err)
			require.NoError(t, src.Root.Close())
			require.Equal(t, c.want, owned(t, dir))
			require.Equal(t, "755 1000", owned(t, filepath.Join(dir, "new")))

			require.NoError(t, unix.Rmdir(filepath.Join(dir, "new")))
			require.NoError(t, unix.Chown(dir, 0, 0))
			require.NoError(t, unix.Chmod(dir, c.mode))
			m.Attributes["path"] = dir
			src, err = driver(t, top).Mount(t.Context(), m, "")
			require.NoError(t, err)
			require.NoError(t, src.Root.Close())
			require.Equal(t, c.want, owned(t, dir), "as the volume itself")
		})
	}
}

// owned is a directory's mode and whose it is.
func owned(t *testing.T, dir string) string {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Stat(dir, &st))
	return fmt.Sprintf("%o %d", st.Mode&0o7777, st.Uid)
}

// Whoever puts another directory in the place of a new one before it is opened does not get it.
func TestADirectoryThatIsPutInTheNewOnesPlaceIsNotGivenAway(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it gives directories to another user")
	}
	top := t.TempDir()
	fresh, victim := filepath.Join(top, "new"), mkdir(t, top, "victim")
	mkdir(t, victim, "theirs")
	theirs, err := os.Open(victim)
	require.NoError(t, err)
	defer func() { _ = theirs.Close() }()
	m := volume(fresh)
	m.Owner, m.Attributes["type"] = mount.Owner{UID: 1000, GID: 1000}, "DirectoryOrCreate"
	d := driver(t, top)

	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, victim, unix.RENAME_EXCHANGE)
			}
		}
	})
	made := 0
	for range 20_000 {
		if unix.Rmdir(fresh) == nil { // not the victim, which is not empty
			made++
		}
		if src, err := d.Mount(t.Context(), m, ""); err == nil {
			_ = src.Root.Close()
		}
	}
	close(stop)
	wg.Wait()
	require.NotZero(t, made)
	var st unix.Stat_t
	require.NoError(t, unix.Fstat(int(theirs.Fd()), &st))
	require.Zero(t, st.Uid)
}

func TestVolumesThatLackTheSameDirectoriesMakeThemTogether(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it gives directories to another user")
	}
	top := t.TempDir()
	d := driver(t, top)
	for round := range 200 {
		dir := filepath.Join(top, strconv.Itoa(round), "deep")
		var g errgroup.Group
		for i := range 4 {
			g.Go(func() error {
				m := volume(filepath.Join(dir, strconv.Itoa(i)))
				m.Owner, m.Attributes["type"] = mount.Owner{UID: 1000, GID: 1000}, "DirectoryOrCreate"
				src, err := d.Mount(t.Context(), m, "")
				if err != nil {
					return err
				}
				return src.Root.Close()
			})
		}
		require.NoError(t, g.Wait())
		for _, p := range []string{filepath.Dir(dir), dir, dir + "/0", dir + "/1", dir + "/2", dir + "/3"} {
			require.Equal(t, "755 1000", owned(t, p), p)
		}
	}
}

func TestDangerousOrWrongPrefixesAreRefused(t *testing.T) {
	for _, p := range []string{"/", "/proc", "/sys/fs", "/dev", "relative", "", "/nonexistent-prefix", "/proc/../proc/1"} {
		_, err := hostpath.New(hostpath.Config{Prefixes: []string{p}})
		require.Error(t, err, p)
	}
}

func TestUnknownAttributesAndOptionsAreRefusedByName(t *testing.T) {
	top := t.TempDir()
	for name, m := range map[string]mount.Mount{
		`"server"`: {Attributes: map[string]string{"path": top, "server": "x"}},
		`"Path"`:   {Attributes: map[string]string{"Path": top}},
		"type":     {Attributes: map[string]string{"path": top, "type": "Socket"}},
		`"bind"`:   {Attributes: map[string]string{"path": top}, Options: []string{"bind"}},
	} {
		_, err := driver(t, top).Mount(t.Context(), m, "")
		require.ErrorIs(t, err, mount.ErrInvalid)
		require.ErrorContains(t, err, name)
	}
}

func TestWhatLiesInNoAllowedPrefixIsRefusedBeforeItIsMounted(t *testing.T) {
	dir := t.TempDir()
	d, err := hostpath.New(hostpath.Config{Prefixes: []string{dir}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	require.NoError(t, d.Check(mount.Mount{Attributes: map[string]string{hostpath.AttrPath: dir + "/a"}}))
	for name, m := range map[string]mount.Mount{
		"another directory": {Attributes: map[string]string{hostpath.AttrPath: "/etc"}},
		"a prefix's name":   {Attributes: map[string]string{hostpath.AttrPath: dir + "x"}},
		"a way out":         {Attributes: map[string]string{hostpath.AttrPath: dir + "/../x"}},
		"an attribute":      {Attributes: map[string]string{hostpath.AttrPath: dir, "mode": "1"}},
		"an option":         {Attributes: map[string]string{hostpath.AttrPath: dir}, Options: []string{"suid"}},
	} {
		err := d.Check(m)
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), dir, name)
		require.Equal(t, err.Error(), hostpath.Allowed{dir}.Check(m).Error(), "%s: from afar the same is refused", name)
	}
	require.NoError(t, hostpath.Allowed{dir}.Check(mount.Mount{Attributes: map[string]string{hostpath.AttrPath: dir + "/a"}}))
	require.ErrorIs(t, hostpath.Allowed(nil).Check(mount.Mount{Attributes: map[string]string{hostpath.AttrPath: dir}}), mount.ErrDenied)
}
