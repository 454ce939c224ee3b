package account

import (
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPathsResolveAsTheSDKsExpect(t *testing.T) {
	d := &Directory{DefaultDir: func() string { return "" }}
	a := Account{Name: "user", Home: "/home/user"}
	for name, c := range map[string]struct{ path, want string }{
		"an absolute path stays":             {"/tmp/x", "/tmp/x"},
		"a relative path lies in the home":   {"a/b", "/home/user/a/b"},
		"nothing is the home":                {"", "/home/user"},
		"a tilde is the home":                {"~", "/home/user"},
		"a tilde with a path lies in it":     {"~/x", "/home/user/x"},
		"dots are cleaned":                   {"/tmp/../etc/x", "/etc/x"},
		"a relative path may leave the home": {"../other", "/home/other"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := d.Resolve(c.path, a)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
	for name, path := range map[string]string{"another user's home": "~root/x", "a NUL byte": "/tmp/\x00"} {
		t.Run(name+" is refused", func(t *testing.T) {
			_, err := d.Resolve(path, a)
			require.ErrorIs(t, err, ErrPath)
		})
	}
	t.Run("the default directory stands in for no path", func(t *testing.T) {
		d := &Directory{DefaultDir: func() string { return "/work" }}
		got, err := d.Resolve("", a)
		require.NoError(t, err)
		require.Equal(t, "/work", got)
	})
}

func TestACallerIsNamedByBasicAuthorization(t *testing.T) {
	d := &Directory{DefaultUser: func() string { return "root" }}
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for name, header := range map[string]string{
		"no header means the default":      "",
		"root by name":                     basic("root:"),
		"the scheme is case-insensitive":   "bAsIc " + base64.StdEncoding.EncodeToString([]byte("root:")),
		"another scheme means the default": "Bearer abc",
		"an empty user means the default":  basic(":"),
	} {
		t.Run(name, func(t *testing.T) {
			a, err := d.Caller(http.Header{"Authorization": {header}})
			require.NoError(t, err)
			require.Equal(t, "root", a.Name)
			require.Contains(t, a.Groups, 0)
		})
	}
	_, err := d.Caller(http.Header{"Authorization": {basic("no-such-user:")}})
	require.ErrorIs(t, err, ErrUnknown)
}

func TestSingleUserModeActsOnlyAsItself(t *testing.T) {
	self := Account{Name: "someone", UID: 4242, GID: 4242, Home: "/tmp"}
	d := &Directory{Self: &self, DefaultUser: func() string { return "user" }}
	a, err := d.Lookup("")
	require.NoError(t, err)
	require.Equal(t, self, a)
	a, err = d.Lookup("someone")
	require.NoError(t, err)
	require.Equal(t, self, a)
	_, err = d.Lookup("root")
	require.ErrorIs(t, err, ErrUnknown)
	require.ErrorContains(t, err, "without root")
}

func TestAnUidWithoutAPasswdLineStillIsSomebody(t *testing.T) {
	a := Current(54321, 54322)
	require.Equal(t, Account{Name: "54321", UID: 54321, GID: 54322, Groups: []int{54322}, Home: "/"}, a)
}

func TestAHomeThatIsNotThereIsTheRoot(t *testing.T) {
	nobody, err := (&Directory{}).Lookup("nobody")
	require.NoError(t, err)
	if _, err := os.Stat(nobody.Home); err == nil {
		t.Skip("needs a machine on which nobody has no home")
	}
	a := Current(nobody.UID, nobody.GID)
	require.Equal(t, "nobody", a.Name)
	require.Equal(t, "/", a.Home)
}

func TestMadeDirectoriesBelongToTheAccount(t *testing.T) {
	a := Current(os.Getuid(), os.Getgid())
	if os.Getuid() == 0 {
		a.UID, a.GID = 1234, 1235
	}
	root := t.TempDir()
	dir := filepath.Join(root, "a", "b")
	require.NoError(t, a.MakeDirs(dir))
	require.NoError(t, a.MakeDirs(dir), "making it again changes nothing")
	for _, p := range []string{dir, filepath.Dir(dir)} {
		info, err := os.Stat(p)
		require.NoError(t, err)
		require.Equal(t, uint32(a.UID), info.Sys().(*syscall.Stat_t).Uid)
	}
	file := filepath.Join(root, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.ErrorIs(t, a.MakeDirs(filepath.Join(file, "sub")), syscall.ENOTDIR)
}

func FuzzBasicUser(f *testing.F) {
	for _, s := range []string{"", "Basic ", "Basic dXNlcjo=", "basic !!!", "Basic OjpyAA=="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		require.NotContains(t, basicUser(header), ":")
	})
}

func TestAnImageWithoutTheDefaultUserActsAsItsOwn(t *testing.T) {
	d := &Directory{DefaultUser: func() string { return "nobody-has-this-name" }}
	a, err := d.Lookup("")
	require.NoError(t, err)
	require.Equal(t, os.Getuid(), a.UID)
	_, err = d.Lookup("nobody-has-this-name")
	require.ErrorIs(t, err, ErrUnknown, "one that was asked for by name is missing")
}
