package mount_test

import (
	"errors"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

func fields(t *testing.T, err error) (out []mount.Field) {
	t.Helper()
	var faults mount.Faults
	require.True(t, errors.As(err, &faults), "%v", err)
	for _, f := range faults {
		require.NotEmpty(t, f.Reason)
		out = append(out, f.Field)
	}
	return out
}

func TestATarget(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"is taken as it is":                       {"/data", "/data"},
		"loses one trailing slash":                {"/data/sets/", "/data/sets"},
		"may begin a component with two dots":     {"/..foo/x", "/..foo/x"},
		"may hold two dots in a component":        {"/a..b", "/a..b"},
		"may lie below /tmp":                      {"/tmp/x", "/tmp/x"},
		"may be a home directory":                 {"/home/user", "/home/user"},
		"may begin like a reserved one":           {"/etcetera", "/etcetera"},
		"may have 16 components":                  {strings.Repeat("/a", 16), strings.Repeat("/a", 16)},
		"may hold blanks and letters of any kind": {"/Meine Dateien/目录", "/Meine Dateien/目录"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := mount.Parse(mount.Spec{Volume: "v", Target: c.in})
			require.NoError(t, err)
			require.Equal(t, c.want, s.Target)
		})
	}
}

func TestATargetIsRefusedWhenIt(t *testing.T) {
	cases := map[string]string{
		"is missing": "", "is relative": "data", "is the root": "/", "is two slashes": "//", "has an empty component": "/a//b",
		"ends with two slashes": "/a//", "has a dot component": "/a/./b", "climbs": "/a/../b", "ends by climbing": "/a/..",
		"has a NUL": "/a\x00b", "has a newline": "/a\nb", "has a DEL": "/a\x7f", "has a C1 control": "/a\u0085b", "has a colon": "/a:b",
		"is no UTF-8": "/a\xff", "has 17 components": strings.Repeat("/a", 17), "has 10,000 bytes": "/" + strings.Repeat("a", 9999),
		"has a component of 256 bytes": "/" + strings.Repeat("a", 256), "is /tmp": "/tmp", "is /tmp with a slash": "/tmp/",
		"is above /var/run": "/var", "is the kubelet's secrets": "/var/run/secrets/kubernetes.io/serviceaccount",
		"is ours": "/.sandgate", "is below ours": "/.sandgate/run", "is below /etc with a slash": "/etc/ssl/",
	}
	for _, r := range []string{"/proc", "/sys", "/dev", "/etc", "/run", "/var/run", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/boot"} {
		cases["is "+r] = r
		cases["is below "+r] = r + "/x"
	}
	for name, target := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := mount.Parse(mount.Spec{Volume: "v", Target: target})
			require.Equal(t, []mount.Field{mount.FieldTarget}, fields(t, err))
		})
	}
}

func TestASubPath(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"may be missing":                  {"", ""},
		"loses one trailing slash":        {"a/b/", "a/b"},
		"may begin with two dots":         {"..foo", "..foo"},
		"may hold the known placeholders": {"t/${SANDBOX_ID}/${ACTOR_ID}-${USER_ID}", "t/${SANDBOX_ID}/${ACTOR_ID}-${USER_ID}"},
		"may hold a dollar":               {"a$b", "a$b"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := mount.Parse(mount.Spec{Volume: "v", Target: "/d", SubPath: c.in})
			require.NoError(t, err)
			require.Equal(t, c.want, s.SubPath)
		})
	}
}

func TestASubPathIsRefusedWhenIt(t *testing.T) {
	for name, sub := range map[string]string{
		"is absolute": "/a", "climbs": "../other-tenant", "climbs inside": "a/../../b", "is a dot": ".", "is a slash": "/", "has an empty component": "a//b",
		"has a NUL": "a\x00", "has a colon": "a:b", "has an unknown placeholder": "${HOME}", "has an open placeholder": "a/${USER_ID",
		"nests placeholders": "${${USER_ID}}", "has 10,000 bytes": strings.Repeat("a/", 5000), "has 17 components": strings.Repeat("a/", 17),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := mount.Parse(mount.Spec{Volume: "v", Target: "/d", SubPath: sub})
			require.Equal(t, []mount.Field{mount.FieldSubPath}, fields(t, err))
		})
	}
}

func TestAllFaultsOfASpecAreNamedAtOnce(t *testing.T) {
	_, err := mount.Parse(mount.Spec{Volume: "No!", Target: "data", SubPath: "../x", Container: "Main", ID: "a b"})
	want := []mount.Field{mount.FieldVolume, mount.FieldTarget, mount.FieldSubPath, mount.FieldContainer, mount.FieldID}
	require.Equal(t, want, fields(t, err))
}

func TestAnIDIsDerivedWhenItIsMissing(t *testing.T) {
	a, err := mount.Parse(mount.Spec{Volume: "v", Target: "/data/"})
	require.NoError(t, err)
	b, err := mount.Parse(mount.Spec{Volume: "v", Target: "/data"})
	require.NoError(t, err)
	require.Equal(t, a.ID, b.ID)
	require.Equal(t, b.DerivedID(), b.ID)
	named, err := mount.Parse(mount.Spec{Volume: "v", Target: "/data", ID: "my.Mount_1"})
	require.NoError(t, err)
	require.Equal(t, "my.Mount_1", named.ID)
}

func TestAnIDOrAVolumeIsRefusedWhenIt(t *testing.T) {
	for name, s := range map[string]mount.Spec{
		"is an ID that climbs":        {Volume: "v", Target: "/d", ID: ".."},
		"is an ID with a slash":       {Volume: "v", Target: "/d", ID: "a/b"},
		"is an ID of 64 characters":   {Volume: "v", Target: "/d", ID: strings.Repeat("a", 64)},
		"is no volume at all":         {Target: "/d"},
		"is a volume that climbs":     {Volume: "..", Target: "/d"},
		"is a volume with a slash":    {Volume: "a/b", Target: "/d"},
		"is a volume in capitals":     {Volume: "Data", Target: "/d"},
		"is a volume of 254 letters":  {Volume: strings.Repeat("a", 254), Target: "/d"},
		"is a volume with a newline":  {Volume: "a\n", Target: "/d"},
		"is a container with a slash": {Volume: "v", Target: "/d", Container: "a/b"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := mount.Parse(s)
			require.Len(t, fields(t, err), 1)
		})
	}
}

func TestExpandFillsPlaceholdersIn(t *testing.T) {
	vars := map[string]string{mount.SandboxID: "i123", mount.ActorID: "i123", mount.UserID: "ada"}
	out, err := mount.Expand("t/${SANDBOX_ID}/${USER_ID}-${ACTOR_ID}", vars)
	require.NoError(t, err)
	require.Equal(t, "t/i123/ada-i123", out)
	out, err = mount.Expand("", nil)
	require.NoError(t, err)
	require.Empty(t, out)
}

func TestExpandRefusesAValueThat(t *testing.T) {
	for name, v := range map[string]string{
		"is empty": "", "has a slash": "a/b", "climbs": "..", "is a dot": ".", "is a placeholder": "${SANDBOX_ID}", "has a NUL": "\x00",
		"has a colon": "a:b", "opens a placeholder": "${", "is too long": strings.Repeat("a", 256),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := mount.Expand("t/${USER_ID}", map[string]string{mount.UserID: v})
			require.NotEmpty(t, fields(t, err))
		})
	}
	_, err := mount.Expand("t/${USER_ID}", nil)
	require.ErrorContains(t, err, "has no value")
	_, err = mount.Expand("$${USER_ID}", map[string]string{mount.UserID: "{SANDBOX_ID}"})
	require.Error(t, err, "a placeholder made of pieces")
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"/data", "/..foo/", "/a/../etc", "//", "/tmp", "/var", "/a\x00", "/etc/", "a/${USER_ID}", "${${USER_ID}}", "/\xff"} {
		f.Add("v", s, strings.TrimPrefix(s, "/"), "", "")
	}
	f.Fuzz(func(t *testing.T, volume, target, sub, container, id string) {
		s, err := mount.Parse(mount.Spec{Volume: volume, Target: target, SubPath: sub, Container: container, ID: id})
		if err != nil {
			require.NotEmpty(t, fields(t, err))
			return
		}
		again, err := mount.Parse(s)
		require.NoError(t, err)
		require.Equal(t, s, again)
		require.Equal(t, path.Clean(s.Target), s.Target)
		require.True(t, path.IsAbs(s.Target))
		require.True(t, s.SubPath == "" || path.Clean(s.SubPath) == s.SubPath && !path.IsAbs(s.SubPath))
		for _, c := range strings.Split(s.Target+"/"+s.SubPath, "/") {
			require.NotEqual(t, "..", c)
		}
		for _, r := range []string{"/proc", "/sys", "/dev", "/etc", "/run", "/var/run", "/usr", "/.sandgate"} {
			require.False(t, (s.Target+"/" == r+"/") || strings.HasPrefix(s.Target+"/", r+"/") || strings.HasPrefix(r+"/", s.Target+"/"), s.Target)
		}
	})
}

func FuzzExpand(f *testing.F) {
	f.Add("t/${USER_ID}", "ada")
	f.Add("${USER_ID}${SANDBOX_ID}", "..")
	f.Add("$${USER_ID}", "{USER_ID}")
	f.Fuzz(func(t *testing.T, sub, value string) {
		out, err := mount.Expand(sub, map[string]string{mount.UserID: value, mount.SandboxID: value, mount.ActorID: value})
		if err != nil {
			return
		}
		require.NotContains(t, out, "${")
		require.False(t, path.IsAbs(out))
		require.True(t, out == "" || path.Clean("/"+out) == "/"+out, out)
	})
}
