package rootfs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// host is a small machine's file system with a canary wherever one may be forgotten.
func host(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for path, content := range map[string]string{
		"etc/services": "ssh 22/tcp\n", "etc/shadow": "canary", "etc/ssl/private/key.pem": "canary", "etc/ssl/certs/ca-certificates.crt": "certs",
		"etc/cloud/token": "canary", "root/.ssh/id_rsa": "canary", "home/me/.aws/credentials": "canary", "opt/app/config": "canary",
		"srv/data": "canary", "var/lib/secret": "canary", "secret.txt": "canary", "etc/ld.so.conf.d/app.conf": "/usr/lib/app\n",
	} {
		file := filepath.Join(dir, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(content), 0o644))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "etc/alternatives"), 0o755))
	for link, target := range map[string]string{
		"bin": "usr/bin", "lib": "usr/lib", "sbin": "usr/sbin", "etc/alternatives/editor": "/usr/bin/vi",
		"etc/alternatives/app": "/opt/app/config", "etc/ssl/certs/abc.0": "ca-certificates.crt", "etc/ssl/certs/key.pem": "../private/key.pem",
		"etc/magic": "/etc/../root/.ssh/id_rsa",
	} {
		require.NoError(t, os.Symlink(target, filepath.Join(dir, link)))
	}
	return dir
}

func paths(s *Skeleton) map[string]Entry {
	out := map[string]Entry{}
	for _, e := range s.Entries() {
		out[e.Path] = e
	}
	return out
}

func TestOnlyTheListIsTakenFromTheHost(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: only root's files are taken")
	}
	s, err := Load(host(t))
	require.NoError(t, err)
	got := paths(s)
	for _, e := range s.Entries() {
		require.NotContains(t, string(e.Content), "canary", e.Path)
		if e.Host {
			require.True(t, Allowed(e.Path), e.Path)
		}
	}
	require.Equal(t, "ssh 22/tcp\n", string(got["etc/services"].Content))
	require.Equal(t, "/usr/bin/vi", got["etc/alternatives/editor"].Target)
	require.Contains(t, got, "etc/ssl/certs/abc.0")
	for _, outside := range []string{"etc/alternatives/app", "etc/ssl/certs/key.pem", "etc/magic", "etc/cloud", "secret.txt"} {
		require.NotContains(t, got, outside)
	}
}

func TestAFileThatNotEverybodyMayReadStaysOutside(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: only root's files are taken")
	}
	dir := host(t)
	require.NoError(t, os.Chmod(filepath.Join(dir, "etc/services"), 0o640))
	require.NoError(t, os.Lchown(filepath.Join(dir, "etc/ld.so.conf.d/app.conf"), 1234, 0))
	s, err := Load(dir)
	require.NoError(t, err)
	require.NotContains(t, paths(s), "etc/services")
	require.NotContains(t, paths(s), "etc/ld.so.conf.d/app.conf")
}

func TestAMachineWithoutMergedUsrIsRefused(t *testing.T) {
	dir := host(t)
	require.NoError(t, os.Remove(filepath.Join(dir, "bin")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "bin"), 0o755))
	_, err := Load(dir)
	require.ErrorContains(t, err, "merged-/usr")
}

func TestTheDigestFollowsTheContent(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: only root's files are taken")
	}
	dir := host(t)
	before, err := Load(dir)
	require.NoError(t, err)
	same, err := Load(dir)
	require.NoError(t, err)
	require.Equal(t, before.Digest(), same.Digest())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "etc/services"), []byte("x"), 0o644))
	after, err := Load(dir)
	require.NoError(t, err)
	require.NotEqual(t, before.Digest(), after.Digest())
}

func TestAWrittenRootHasItsNamesOwnersAndModes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it gives files away")
	}
	s, err := Load("/")
	require.NoError(t, err)
	shared, root, own := t.TempDir(), t.TempDir(), t.TempDir()
	require.NoError(t, s.WriteShared(shared))
	require.NoError(t, s.Write(root, own, Names{Hostname: "box", Nameserver: "198.51.100.53"}))
	for path, want := range map[string]string{
		own + "/hostname": "box\n", own + "/resolv.conf": "nameserver 198.51.100.53\n", shared + "/passwd": passwd,
	} {
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	for path, want := range map[string]os.FileMode{
		root: os.ModeDir | 0o755, root + "/tmp": os.ModeDir | os.ModeSticky | 0o777, root + "/root": os.ModeDir | 0o700, root + "/etc": os.ModeDir | 0o755,
		shared: os.ModeDir | 0o755, shared + "/shadow": 0o640, shared + "/sudoers": 0o440, own: os.ModeDir | 0o755,
	} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, want, info.Mode(), path)
	}
	for _, dir := range []string{root + "/etc", own} {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.LessOrEqual(t, len(entries), 4, "what is the same for all is made once")
	}
}

func TestPythonIsThereUnderItsShortName(t *testing.T) {
	for name, c := range map[string]struct {
		host []string
		want bool
	}{
		"a host with python3 only":  {[]string{"python3"}, true},
		"a host with both":          {[]string{"python3", "python"}, false},
		"a host without any Python": {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			host, upper := t.TempDir(), t.TempDir()
			bin := filepath.Join(host, "usr", "bin")
			require.NoError(t, os.MkdirAll(bin, 0o755))
			for _, f := range c.host {
				require.NoError(t, os.WriteFile(filepath.Join(bin, f), nil, 0o755))
			}
			require.NoError(t, WriteUsr(host, upper))
			target, err := os.Readlink(filepath.Join(upper, "bin", "python"))
			require.Equal(t, c.want, err == nil)
			if c.want {
				require.Equal(t, "python3", target)
			}
		})
	}
}
