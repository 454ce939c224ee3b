package mount_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

func asked(target string, change ...func(*mount.Mount)) mount.Mount {
	m := mount.Mount{Spec: mount.Spec{Volume: "v", Target: target}, Driver: mount.DriverTmpfs}
	m.ID = m.DerivedID()
	for _, c := range change {
		c(&m)
	}
	return m
}

func options(driver string, o ...string) func(*mount.Mount) {
	return func(m *mount.Mount) { m.Driver, m.Options = driver, o }
}

func TestMountsAreAdmittedWhenThey(t *testing.T) {
	other := func(m *mount.Mount) { m.Container = "other"; m.ID = m.DerivedID() }
	for name, ms := range map[string][]mount.Mount{
		"are none":                             nil,
		"are beside each other":                {asked("/data"), asked("/data2"), asked("/home/user/x")},
		"share a target in two containers":     {asked("/data"), asked("/data", other)},
		"have options that suit the driver":    {asked("/data", options(mount.DriverNAS, "nolock", "tcp", "noresvport", "vers=3", "noexec"))},
		"have flags that narrow any mount":     {asked("/data", options(mount.DriverTmpfs, "ro", "noexec", "nosuid"))},
		"have options of an object store":      {asked("/data", options(mount.DriverOSS, "umask=022", "allow_other"))},
		"have targets that only look nested":   {asked("/data"), asked("/data-x/y")},
		"lie below /tmp":                       {asked("/tmp/a"), asked("/tmp/b")},
		"take a driver that is a plain folder": {asked("/data", options(mount.DriverHostPath))},
	} {
		t.Run(name, func(t *testing.T) { require.NoError(t, mount.DefaultPolicy().Admit(ms)) })
	}
}

func TestAMountIsRefusedWhenIt(t *testing.T) {
	p := mount.DefaultPolicy()
	p.Reserved = []string{"/opt/envd", "/workspace/"}
	named := func(id string) func(*mount.Mount) { return func(m *mount.Mount) { m.ID = id } }
	for name, c := range map[string]struct {
		last  mount.Mount
		field mount.Field
	}{
		"has another's target":            {asked("/data", named("x")), mount.FieldTarget},
		"lies inside another's target":    {asked("/data/x"), mount.FieldTarget},
		"contains another's target":       {asked("/"), mount.FieldTarget},
		"has another's ID":                {asked("/x", named("first")), mount.FieldID},
		"is below a kernel directory":     {asked("/proc/self"), mount.FieldTarget},
		"is what the template mounts":     {asked("/workspace"), mount.FieldTarget},
		"is below what the template has":  {asked("/workspace/src"), mount.FieldTarget},
		"is above a reserved path":        {asked("/opt"), mount.FieldTarget},
		"has an unknown driver":           {asked("/x", options("disk.example.com")), mount.FieldVolume},
		"has no driver":                   {asked("/x", options("")), mount.FieldVolume},
		"wants set-user-ID":               {asked("/x", options(mount.DriverNAS, "suid")), mount.FieldVolume},
		"wants devices":                   {asked("/x", options(mount.DriverTmpfs, "dev")), mount.FieldVolume},
		"wants a bind mount":              {asked("/x", options(mount.DriverHostPath, "bind")), mount.FieldVolume},
		"wants a remount":                 {asked("/x", options(mount.DriverNAS, "remount")), mount.FieldVolume},
		"smuggles a second option":        {asked("/x", options(mount.DriverOSS, "umask=022,allow_other,suid")), mount.FieldVolume},
		"smuggles a command":              {asked("/x", options(mount.DriverOSS, "umask=022;id")), mount.FieldVolume},
		"smuggles a flag":                 {asked("/x", options(mount.DriverOSS, "-o")), mount.FieldVolume},
		"smuggles a line":                 {asked("/x", options(mount.DriverOSS, "umask=022\nsuid")), mount.FieldVolume},
		"ends an option with a newline":   {asked("/x", options(mount.DriverOSS, "allow_other\n")), mount.FieldVolume},
		"gives a flag a value":            {asked("/x", options(mount.DriverTmpfs, "ro=1")), mount.FieldVolume},
		"has an option of another driver": {asked("/x", options(mount.DriverTmpfs, "vers=3")), mount.FieldVolume},
	} {
		t.Run(name, func(t *testing.T) {
			first := asked("/data")
			first.ID = "first"
			err := p.Admit([]mount.Mount{first, c.last})
			var faults mount.Faults
			require.ErrorAs(t, err, &faults)
			require.Contains(t, fields(t, err), c.field)
			for _, f := range faults {
				require.Equal(t, 1, f.Index)
			}
		})
	}
}

func TestAllReasonsAreNamedAtOnceWithTheirPlaces(t *testing.T) {
	err := mount.DefaultPolicy().Admit([]mount.Mount{
		asked("/a"), asked("/etc", options(mount.DriverTmpfs, "suid", "dev")), asked("/b", options("x")), asked("/a/b"),
	})
	var faults mount.Faults
	require.ErrorAs(t, err, &faults)
	var places []string
	for _, f := range faults {
		places = append(places, fmt.Sprintf("%d.%s", f.Index, f.Field))
	}
	require.Equal(t, []string{"1.target", "1.volume", "1.volume", "2.volume", "3.target"}, places)
}

func TestThereIsALimitToTheNumberOfMounts(t *testing.T) {
	var ms []mount.Mount
	for i := range 100 {
		ms = append(ms, asked(fmt.Sprintf("/data%d", i)))
	}
	require.NoError(t, mount.DefaultPolicy().Admit(ms[:16]))
	require.ErrorContains(t, mount.DefaultPolicy().Admit(ms), "at most 16 mounts; 100 are asked for")
}

func TestAClashNamesTheOtherMountByWhatTheCallerWrote(t *testing.T) {
	for _, c := range []struct{ first, last, want string }{
		{"/data", "/data", "is the target of another mount too"},
		{"/data", "/data/below", "lies inside /data,"},
		{"/data/below", "/data", "contains /data/below,"},
	} {
		require.ErrorContains(t, mount.DefaultPolicy().Admit([]mount.Mount{asked(c.first), asked(c.last, func(m *mount.Mount) { m.ID = "other" })}), c.want)
	}
}

func TestTheValueOfARefusedOptionIsNotTold(t *testing.T) {
	for _, o := range []string{"password=canary", "password=can ary", "pass word=canary"} {
		err := mount.DefaultPolicy().Admit([]mount.Mount{asked("/data", options(mount.DriverNAS, o))})
		require.ErrorContains(t, err, "mount option")
		require.NotContains(t, err.Error(), "canary")
		require.NotContains(t, err.Error(), "can ary")
	}
}

func TestAMountIsJudgedBesideThoseThatAreThere(t *testing.T) {
	p := mount.DefaultPolicy()
	p.MaxMounts = 2
	there := []mount.Spec{{ID: "a", Volume: "v", Target: "/data/a"}}
	for name, c := range map[string]struct {
		there []mount.Spec
		asked mount.Spec
		want  []mount.Field
	}{
		"beside":           {there, mount.Spec{ID: "b", Target: "/data/b"}, nil},
		"the same target":  {there, mount.Spec{ID: "b", Target: "/data/a"}, []mount.Field{mount.FieldTarget}},
		"inside":           {there, mount.Spec{ID: "b", Target: "/data/a/x"}, []mount.Field{mount.FieldTarget}},
		"around":           {there, mount.Spec{ID: "b", Target: "/data"}, []mount.Field{mount.FieldTarget}},
		"the same ID":      {there, mount.Spec{ID: "a", Target: "/b"}, []mount.Field{mount.FieldID}},
		"one too many":     {append(there, mount.Spec{ID: "b", Target: "/b"}), mount.Spec{ID: "c", Target: "/c"}, []mount.Field{mount.FieldVolume}},
		"in another place": {there, mount.Spec{ID: "b", Target: "/data/a", Container: "other"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			err := p.Beside(c.there, c.asked)
			if c.want == nil {
				require.NoError(t, err)
				return
			}
			require.Equal(t, c.want, fields(t, err))
		})
	}
}

func TestTheSameMountIsToldFromAnother(t *testing.T) {
	spec := mount.Spec{ID: "a", Volume: "v", SubPath: "s", Target: "/data"}
	enforced := mount.Mount{Spec: spec, OwnerReadOnly: true, Prefix: "tenants/red", Enforced: true}
	enforced.ReadOnly = true
	confined := mount.Mount{Spec: spec, Prefix: "tenants/red", Enforced: true}
	confined.ReadOnly = true
	require.False(t, confined.Is(spec), "it is the caller who now wants it read-only")
	require.True(t, mount.Mount{Spec: spec}.Is(spec))
	require.True(t, enforced.Is(spec), "written down before the volume's owner had his say")
	require.True(t, enforced.Is(enforced.Spec))
	for name, change := range map[string]func(*mount.Spec){
		"volume": func(s *mount.Spec) { s.Volume = "w" }, "sub path": func(s *mount.Spec) { s.SubPath = "" }, "target": func(s *mount.Spec) { s.Target = "/x" },
		"read-only": func(s *mount.Spec) { s.ReadOnly = true }, "ID": func(s *mount.Spec) { s.ID = "b" }, "container": func(s *mount.Spec) { s.Container = "c" },
	} {
		other := spec
		change(&other)
		require.False(t, mount.Mount{Spec: spec}.Is(other), name)
	}
	allowed := spec
	allowed.AllowNonEmpty = true
	require.True(t, mount.Mount{Spec: allowed}.Is(spec))
}

func TestADriverThatIsNotBuiltInTakesAnyOptionOfTheGrammar(t *testing.T) {
	p := mount.DefaultPolicy().With("smb.csi.k8s.io", mount.DriverOSS)
	asked := func(driver string, options ...string) error {
		return p.Admit([]mount.Mount{{Spec: mount.Spec{ID: "a", Volume: "v", Target: "/data"}, Driver: driver, Options: options}})
	}
	require.NoError(t, asked("smb.csi.k8s.io", "vers=3.0", "dir_mode=0777", "mfsymlinks", "ro"))
	require.Error(t, asked("smb.csi.k8s.io", "a;b"))
	require.Error(t, asked(mount.DriverOSS, "dir_mode=0777"), "a built-in driver keeps its list")
	require.NotContains(t, mount.DefaultPolicy().Drivers, "smb.csi.k8s.io")
	require.NotContains(t, mount.DefaultPolicy().Options, "smb.csi.k8s.io")
}
