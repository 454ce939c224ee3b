package oss

import (
	"crypto/rand"
	"fmt"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/driver/oss/osstest"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// ossfsProgram is a directory with a real ossfs, and nothing else that could take its place.
func ossfsProgram(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	program := os.Getenv("OSSFS")
	if program == "" {
		var err error
		if program, err = exec.LookPath("ossfs"); err != nil {
			t.Skip("needs ossfs: set OSSFS to the program, which no package registry has; see docs/backends.md")
		}
	}
	dir := t.TempDir()
	require.NoError(t, os.Symlink(program, filepath.Join(dir, "ossfs")))
	return dir
}

// ossStore speaks OSS, verifies its signatures, and has one bucket.
type ossStore struct {
	store
	front *osstest.Store
}

func startOSS(t *testing.T) (ossStore, world) {
	t.Helper()
	client := ossfsProgram(t)
	s := ossStore{store: store{dir: t.TempDir()}}
	require.NoError(t, os.Mkdir(filepath.Join(s.dir, "data"), 0o755))
	behind, err := url.Parse(serve(t, nil, "posix", s.dir))
	require.NoError(t, err)
	s.front = osstest.New(behind, storeKey, storeSecret)
	s.front.Admit(osstest.Key{ID: storeKey, Secret: storeSecret})
	server := httptest.NewServer(s.front)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s, newWorld(t, client)
}

func (s ossStore) mount(k mount.Secret) mount.Mount {
	m := s.store.mount()
	m.Secret = k
	return m
}

// key makes an access key, and a token with it if there shall be one.
func (s ossStore) key(token bool) mount.Secret {
	name := rand.Text()
	k := osstest.Key{ID: "LTAI" + name[:16], Secret: "SKCANARY" + name}
	out := mount.Secret{"AccessKeyId": k.ID, "AccessKeySecret": k.Secret}
	if token {
		k.Token = "STSCANARY/+=" + name
		out["SecurityToken"] = k.Token
	}
	s.front.Admit(k)
	return out
}

func (s ossStore) revoke(k mount.Secret) { s.front.Revoke(k["AccessKeyId"]) }

func (s ossStore) refusals() []string { return s.front.Refused() }

func (s ossStore) await(t *testing.T, k mount.Secret) {
	t.Helper()
	from := s.front.Asked(k["AccessKeyId"])
	require.Eventually(t, func() bool { return s.front.Asked(k["AccessKeyId"]) >= from+20 }, 30*time.Second, time.Millisecond, "the client goes on asking")
}

// bareOSS keeps ossfs from answering out of its memory.
func bareOSS(m mount.Mount) mount.Mount {
	m.Attributes["otherOpts"] = "-o max_stat_cache_size=0 -o stat_cache_expire=0"
	return m
}

func v4(m *mount.Mount) { m.Attributes["sigVersion"], m.Attributes["region"] = "v4", "cn-hangzhou" }

func TestOssfsReadsAndWritesABucket(t *testing.T) {
	for name, change := range map[string]func(*mount.Mount){
		"signed with version 1": func(*mount.Mount) {},
		"signed with version 4": v4,
		"asked for version 1":   with("sigVersion", "v1"),
	} {
		t.Run(name, func(t *testing.T) {
			s, w := startOSS(t)
			m := s.store.mount()
			m.Attributes["path"], m.SubPath = "/team", "a b ä+&"
			change(&m)
			begin := time.Now()
			src := w.up(t, m)
			t.Logf("ready after %v", time.Since(begin))
			require.Equal(t, "fuse.ossfs", src.FSType)
			var st unix.Stat_t
			require.NoError(t, unix.Stat(w.dir, &st))
			require.Equal(t, []uint32{1000, 1001, 0o755}, []uint32{st.Uid, st.Gid, st.Mode & 0o7777})
			var fs unix.Statfs_t
			require.NoError(t, unix.Statfs(w.dir, &fs))
			require.EqualValues(t, unix.ST_NOSUID|unix.ST_NODEV, fs.Flags&(unix.ST_NOSUID|unix.ST_NODEV))

			big := []byte(strings.Repeat("0123456789abcdef", 2<<20)) // in several parts
			require.NoError(t, os.Mkdir(filepath.Join(w.dir, "d ö+"), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(w.dir, "d ö+", "hello"), []byte("world"), 0o600))
			require.NoError(t, os.WriteFile(filepath.Join(w.dir, "big"), big, 0o600))
			require.NoError(t, os.Rename(filepath.Join(w.dir, "big"), filepath.Join(w.dir, "bigger")))
			require.NoError(t, src.Root.Close())
			require.NoError(t, w.Unmount(soon(t, 20*time.Second), w.dir, src.Client), "it ends by itself")
			content, err := os.ReadFile(filepath.Join(s.dir, "data", "team", m.SubPath, "d ö+", "hello"))
			require.NoError(t, err, "path and sub path are the key's prefix")
			require.Equal(t, "world", string(content))

			w.up(t, m)
			content, err = os.ReadFile(filepath.Join(w.dir, "bigger"))
			require.NoError(t, err)
			require.Equal(t, big, content, "the same in another mount")
			names, err := os.ReadDir(w.dir)
			require.NoError(t, err)
			require.Len(t, names, 2)
			require.NoError(t, os.RemoveAll(filepath.Join(w.dir, "d ö+")))
			require.NoDirExists(t, filepath.Join(s.dir, "data", "team", m.SubPath, "d ö+"))
			require.Empty(t, s.refusals(), "every signature held")
		})
	}
}

func TestOssfsShowsNoSecretAndNothingOfOurEnvironment(t *testing.T) {
	s, w := startOSS(t)
	t.Setenv("SANDGATE_TEST_CANARY", "ENVCANARY")
	src := w.up(t, s.mount(s.key(true)))
	for _, what := range []string{"cmdline", "environ", "fd/3"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", src.Client.PID, what))
		require.NoError(t, err)
		require.NotContains(t, string(b), "CANARY", what)
	}
	require.NotContains(t, w.clients[src.Client].output(), "CANARY")
}

func TestOssfsCanReadOnlyWhatIsReadOnly(t *testing.T) {
	s, w := startOSS(t)
	m := s.store.mount()
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "data", "f"), []byte("x"), 0o600))
	m.ReadOnly = true
	w.up(t, m)
	b, err := os.ReadFile(filepath.Join(w.dir, "f"))
	require.NoError(t, err)
	require.Equal(t, "x", string(b))
	require.ErrorIs(t, os.WriteFile(filepath.Join(w.dir, "f"), nil, 0o600), unix.EROFS)
	require.ErrorIs(t, os.WriteFile(filepath.Join(w.dir, "g"), nil, 0o600), unix.EROFS)
	require.ErrorIs(t, os.Remove(filepath.Join(w.dir, "f")), unix.EROFS)
}

func TestOssfsReadsAPublicBucketWithoutASecret(t *testing.T) {
	s, w := startOSS(t)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "data", "hello"), []byte("world"), 0o644)) //nolint:gosec // it is public
	m := s.store.mount()
	m.Secret, m.Attributes["authType"] = nil, "public"
	behind := s.store
	behind.url = s.front.Behind()
	behind.open(t)
	w.up(t, m)
	b, err := os.ReadFile(filepath.Join(w.dir, "hello"))
	require.NoError(t, err)
	require.Equal(t, "world", string(b))
	require.Error(t, os.WriteFile(filepath.Join(w.dir, "new"), []byte("x"), 0o600), "everybody may read")
}

func TestOssfsFailuresAreFoundNamedAndCleanedUp(t *testing.T) {
	s, _ := startOSS(t)
	for name, c := range map[string]struct {
		change func(*mount.Mount)
		want   error
	}{
		"a wrong secret":            {func(m *mount.Mount) { m.Secret = mount.Secret{"akId": storeKey, "akSecret": "SKCANARYwrong"} }, mount.ErrDenied},
		"a wrong secret, version 4": {func(m *mount.Mount) { v4(m); m.Secret = mount.Secret{"akId": storeKey, "akSecret": "SKCANARYwrong"} }, mount.ErrDenied},
		"an unknown key":            {func(m *mount.Mount) { m.Secret = mount.Secret{"akId": "AKCANARYx", "akSecret": storeSecret} }, mount.ErrDenied},
		"a token that is wrong":     {func(m *mount.Mount) { m.Secret = s.key(true); m.Secret["SecurityToken"] = "STSCANARYwrong" }, mount.ErrDenied},
		"not public, after all":     {func(m *mount.Mount) { m.Secret = nil; with("authType", "public")(m) }, mount.ErrDenied},
		"a bucket that is not":      {with("bucket", "nosuchbucket"), mount.ErrNotFound},
		"a server that is not":      {with("url", "http://127.0.0.1:1"), mount.ErrUnavailable},
		"a machine's own keys":      {with("url", "http://169.254.169.254"), mount.ErrDenied},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, ossfsProgram(t))
			m := s.store.mount()
			c.change(&m)
			_ = w.refuses(t, m, c.want)
		})
	}
}

func TestOssfsTakesNewCredentialsWithoutAFailedReadOrWrite(t *testing.T) {
	for name, tokens := range map[string][]bool{"tokens": {true}, "access keys": {false}, "one and another": {true, false}} {
		for version, change := range map[string]func(*mount.Mount){"version 1": func(*mount.Mount) {}, "version 4": v4} {
			t.Run(name+", "+version, func(t *testing.T) {
				s, w := startOSS(t)
				turn := 0
				replaced(t, s, w, func(m mount.Mount) mount.Mount {
					change(&m)
					return bareOSS(m)
				}, func() mount.Secret {
					turn++
					return s.key(tokens[turn%len(tokens)])
				})
			})
		}
	}
}

func TestOssfsNeedsNoMoreThanItsPrefixAndReachesNoMore(t *testing.T) {
	s, w := startOSS(t)
	for _, tenant := range []string{"a", "b"} {
		require.NoError(t, os.MkdirAll(filepath.Join(s.dir, "data", "team", tenant), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, "data", "team", tenant, "f"), []byte(tenant), 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "data", "team", "ab"), nil, 0o600))
	s.front.Admit(osstest.Key{ID: "AKCANARYa", Secret: "SKCANARYa", Prefix: "team/a/"})
	m := s.mount(mount.Secret{"akId": "AKCANARYa", "akSecret": "SKCANARYa"})
	m.Attributes["path"], m.SubPath = "/team", "a"
	src := w.up(t, m)
	names, err := os.ReadDir(w.dir)
	require.NoError(t, err)
	require.Len(t, names, 1)
	b, err := os.ReadFile(filepath.Join(w.dir, "f"))
	require.NoError(t, err)
	require.Equal(t, "a", string(b))
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, "g"), []byte("x"), 0o600))
	require.NoError(t, os.Symlink("../b/f", filepath.Join(w.dir, "l")))
	_, err = os.ReadFile(filepath.Join(w.dir, "l"))
	require.Error(t, err, "a link leads nowhere in the bucket")
	require.NoError(t, os.Rename(filepath.Join(w.dir, "g"), filepath.Join(w.dir, "h")))
	require.NoError(t, src.Root.Close())
	require.NoError(t, w.Unmount(soon(t, 20*time.Second), w.dir, src.Client))
	require.False(t, slices.ContainsFunc(s.refusals(), func(r string) bool { return strings.Contains(r, "team/b") }), "%q", s.refusals())

	m.SubPath = "b"
	err = w.fault(t, m)
	require.ErrorIs(t, err, mount.ErrDenied, "the store keeps the tenants apart, whatever the client does")
}

func TestALaterAgentGoesOnSigningForOssfs(t *testing.T) {
	s, w := startOSS(t)
	outlived(t, s, w, bareOSS, s.key(true), s.key(false))
}

func TestOssfsTakesEveryOptionThatIsAllowed(t *testing.T) {
	s, w := startOSS(t)
	w.takesEveryOption(t, s.store.mount, "ossfs", "cn-hangzhou")
}

// docs/backends.md says so.
func TestWhatProgramsCanDoOnAVolumeOfOssfs(t *testing.T) {
	s, w := startOSS(t)
	script, err := filepath.Abs("../../../e2e/testdata/volumes/able.py")
	require.NoError(t, err)
	m := s.store.mount()
	m.Owner = mount.Owner{UID: 1000, GID: 1000}
	w.up(t, m)
	for up := filepath.Dir(w.dir); up != os.TempDir(); up = filepath.Dir(up) {
		require.NoError(t, os.Chmod(up, 0o755)) //nolint:gosec // the sandbox's user walks through it
	}
	program := exec.Command("/usr/bin/env", "python3", "-", w.dir)
	program.Env = environment
	program.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	program.Stdin, err = os.Open(script)
	require.NoError(t, err)
	program.Stderr = t.Output()
	out, err := program.Output()
	require.NoError(t, err)
	require.Equal(t, "symlink rename renamedir append unlinked lock mapped fifo ", string(out))

	cut := filepath.Join(w.dir, "cut")
	require.NoError(t, os.WriteFile(cut, []byte("onetwo"), 0o600))
	require.NoError(t, os.Truncate(cut, 3))
	b, err := os.ReadFile(cut)
	require.NoError(t, err)
	require.Equal(t, "onetwo", string(b), "cut by its name it stays as it was, and nobody is told; when this is red with another version, docs can say so")
	require.NoError(t, exec.Command("truncate", "-s", "3", cut).Run())
	b, err = os.ReadFile(cut)
	require.NoError(t, err)
	require.Equal(t, "one", string(b), "the program opens it first")
}
