package nas

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

func example() mount.Mount {
	return mount.Mount{Attributes: map[string]string{"server": "nas.example.com", "path": "/share"}, Owner: mount.Owner{UID: 1000, GID: 1001}}
}

func with(k, v string) func(*mount.Mount) { return func(m *mount.Mount) { m.Attributes[k] = v } }

func options(list ...string) func(*mount.Mount) { return func(m *mount.Mount) { m.Options = list } }

// words are a task's options as a command line would have them.
func words(t task) string {
	var out []string
	for _, o := range t.Options {
		out = append(out, option{o[0], o[1]}.String())
	}
	return strings.Join(out, ",")
}

func (o option) String() string {
	if o.value == "" {
		return o.name
	}
	return o.name + "=" + o.value
}

func TestTheKernelIsToldWhatTheVolumeSays(t *testing.T) {
	const (
		three    = "vers=3,addr=10.0.0.7,proto=tcp,mountproto=tcp,nolock"
		four     = ",addr=10.0.0.7,proto=tcp,clientaddr=10.0.0.9"
		defaults = ",rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport"
	)
	for name, c := range map[string]struct {
		change func(*mount.Mount)
		want   string
	}{
		"no options":                       {func(*mount.Mount) {}, three + defaults},
		"no options but a version":         {options("vers=3.0"), three + defaults},
		"no options and none by default":   {with("options", "none"), three},
		"those of the seed":                {options("nolock", "tcp", "noresvport", "vers=3"), three + ",noresvport"},
		"options in the attribute":         {with("options", "nolock,tcp,timeo=50"), three + ",timeo=50"},
		"mountOptions win over it":         {func(m *mount.Mount) { with("options", "timeo=50,hard")(m); m.Options = []string{"timeo=70"} }, three + ",timeo=70,hard"},
		"version 4 is 4.0":                 {options("vers=4"), "vers=4.0" + four + ",noresvport"},
		"version 4 with a minor one":       {options("vers=4", "minorversion=1"), "vers=4.1" + four + ",noresvport"},
		"by the other name":                {options("nfsvers=4.2"), "vers=4.2" + four + ",noresvport"},
		"version in the attribute":         {with("vers", "4.1"), "vers=4.1" + four + ",noresvport"},
		"mountOptions win over that too":   {func(m *mount.Mount) { with("vers", "3")(m); m.Options = []string{"vers=4.1"} }, "vers=4.1" + four + ",noresvport"},
		"read-only":                        {func(m *mount.Mount) { m.ReadOnly = true }, three + defaults + ",ro"},
		"read-only by its options":         {options("ro"), three + defaults + ",ro"},
		"read-only by its access mode":     {func(m *mount.Mount) { m.AccessMode = mount.ReadOnlyMany }, three + defaults + ",ro"},
		"rw cannot undo read-only":         {func(m *mount.Mount) { m.ReadOnly = true; m.Options = []string{"rw"} }, three + defaults + ",ro"},
		"flags of the mount":               {options("noexec", "noatime", "_netdev"), three + defaults},
		"ports":                            {options("port=12049", "mountport=12048"), three + ",port=12049,mountport=12048"},
		"what the vendor's driver accepts": {func(m *mount.Mount) { with("mountProtocol", "nfs")(m); with("csi.storage.k8s.io/pod.uid", "u")(m) }, three + defaults},
	} {
		t.Run(name, func(t *testing.T) {
			m := example()
			c.change(&m)
			v, err := parse(m)
			require.NoError(t, err)
			k := v.task(netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("10.0.0.9"))
			require.Equal(t, c.want, words(k))
			require.Equal(t, strings.Contains(c.want, ",ro"), k.ReadOnly)
		})
	}
}

func TestATaskSaysWhereAndForWhom(t *testing.T) {
	m := example()
	m.SubPath = "a/b"
	m.Options = []string{"noexec", "noatime"}
	m.Attributes = map[string]string{" Server ": "fd00::7", "PATH": "/share/", "mode": "0770", "modeType": "non-recursive"}
	v, err := parse(m)
	require.NoError(t, err)
	k := v.task(netip.MustParseAddr("fd00::7"), netip.MustParseAddr("fd00::9"))
	require.Contains(t, words(k), "proto=tcp6,mountproto=tcp6")
	k.Options = nil
	require.Equal(t, task{
		Server: "fd00::7", Path: "/share", Sub: "a/b", Attrs: unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOATIME, Mode: 0o770, SetMode: true, UID: 1000, GID: 1001,
	}, k)
	require.Equal(t, "[fd00::7]:/share", source(k.Server, k.Path))
	require.Equal(t, "10.0.0.7:/", source("10.0.0.7", "/"))
}

func TestWhatIsWrongIsRefusedByName(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*mount.Mount)
		want   string
	}{
		"no server":                     {with("server", ""), "server"},
		"a server with a path":          {with("server", "h:/x"), "server"},
		"two servers":                   {with("server", "a,b"), "server"},
		"a server that is a flag":       {with("server", "-o"), "server"},
		"an address with a zone":        {with("server", "fe80::1%eth0"), "server"},
		"a relative path":               {with("path", "share"), "path"},
		"a path that climbs":            {with("path", "/a/../b"), "path"},
		"a path with a line":            {with("path", "/a\nb"), "path"},
		"a path with a server":          {with("path", "/a:b"), "path"},
		"a sub path that climbs":        {func(m *mount.Mount) { m.SubPath = "../x" }, "sub path"},
		"an access point":               {with("accessPoint", "ap"), "accessPoint"},
		"the vendor's client":           {with("useClient", "efcclient"), "useClient"},
		"another protocol":              {with("mountProtocol", "efc"), "mountProtocol"},
		"another mount type":            {with("mountType", "losetup"), "mountType"},
		"another file system":           {with("fileSystemType", "cpfs"), "fileSystemType"},
		"a way to sign in":              {with("authType", "agent-identity"), "authType"},
		"a sandbox's identity":          {with("sandboxId", "x"), "sandboxId"},
		"a kernel setting":              {with("sysConfig", "a=b"), "sysConfig"},
		"an image":                      {with("loopLock", "false"), "loopLock"},
		"something else":                {with("region", "r"), "region"},
		"an attribute twice":            {with("SERVER", "x"), "twice"},
		"a mode that is none":           {with("mode", "rwx"), "mode"},
		"a mode with set-user-ID":       {with("mode", "4755"), "mode"},
		"a recursive mode":              {with("modeType", "recursive"), "modeType"},
		"an unknown version":            {with("vers", "2"), "vers"},
		"another version in options":    {options("vers=4.3"), "vers"},
		"contradictory versions":        {options("vers=4.1", "minorversion=2"), "minorversion"},
		"a minor version of 3":          {options("vers=3", "minorversion=1"), "minorversion"},
		"a secret":                      {func(m *mount.Mount) { m.Secret = mount.Secret{"akId": "CANARY"} }, "Secret"},
		"set-user-ID programs":          {options("suid"), "suid"},
		"devices":                       {options("dev"), `"dev"`},
		"another address":               {options("addr=169.254.169.254"), "addr"},
		"another mount server":          {options("mountaddr=1.2.3.4"), "mountaddr"},
		"Kerberos":                      {options("sec=krb5"), "sec"},
		"for ever in the background":    {options("bg"), "bg"},
		"UDP":                           {options("udp"), "udp"},
		"UDP by another name":           {options("proto=udp"), "UDP"},
		"locks of version 3":            {options("lock"), "rpc.statd"},
		"a value where none belongs":    {options("hard=1"), "hard"},
		"no value where one belongs":    {options("timeo"), "timeo"},
		"a value that is no number":     {options("timeo=1;id"), "timeo"},
		"a port that is none":           {options("port=65536"), "port"},
		"a mount port of version 4":     {options("vers=4.1", "mountport=2048"), "mountport"},
		"an option twice":               {options("timeo=5", "timeo=6"), "twice"},
		"a list in one option":          {options("ro,suid"), "ro,suid"},
		"an option in the attribute":    {with("options", "nolock,suid"), "suid"},
		"an empty one in the attribute": {with("options", "nolock,,tcp"), "mount option"},
	} {
		t.Run(name, func(t *testing.T) {
			m := example()
			c.change(&m)
			err := Check(m, mount.Guard{})
			require.ErrorIs(t, err, mount.ErrInvalid)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "CANARY")
		})
	}
}

func TestEveryOptionThatTheDriverTakesThePolicyAdmits(t *testing.T) {
	policy := mount.DefaultPolicy()
	for name, form := range allowed {
		o := name
		if form != flag {
			o += "=1"
		}
		m := example()
		m.Driver, m.Target, m.ID, m.Options = mount.DriverNAS, "/data", "m", []string{o}
		require.NoError(t, policy.Admit([]mount.Mount{m}), o)
	}
}

func TestAVolumeThatItsOwnerRestrictsNeedsAFence(t *testing.T) {
	m := example()
	m.Enforced = true
	err := New(Config{}).Check(m)
	require.ErrorIs(t, err, mount.ErrDenied)
	require.ErrorContains(t, err, "fence")
	_, err = New(Config{}).Mount(t.Context(), m, "")
	require.ErrorIs(t, err, mount.ErrDenied, "before anybody is asked")
	require.NoError(t, New(Config{Unfenced: true}).Check(m))
	require.NoError(t, New(Config{Fence: &Fence{}}).Check(m))
	require.ErrorIs(t, New(Config{}).FenceMounted(m, "rw"), mount.ErrDenied, "whoever has mounted it")
	require.NoError(t, New(Config{Unfenced: true}).FenceMounted(m, "rw"))
	require.ErrorContains(t, New(Config{Fence: &Fence{}}).FenceMounted(m, "rw,port=x"), "option port", "what cannot be fenced is refused")
	require.NoError(t, Check(m, mount.Guard{}), "whoever is not on the machine cannot know")
	m.Enforced, m.ReadOnly, m.SubPath = false, true, "a"
	require.NoError(t, New(Config{}).Check(m), "what the caller asks for is his own matter")
}

func TestAddressesThatAreNoServersAreRefusedBeforeAnythingIsSent(t *testing.T) {
	for _, server := range []string{"169.254.169.254", "::ffff:169.254.169.254", "100.100.100.200", "0.0.0.0", "ff02::1", "224.0.0.1", "127.0.0.1", "::1", "localhost"} {
		m := example()
		m.Attributes["server"] = server
		require.ErrorIs(t, Check(m, mount.Guard{}), mount.ErrDenied, "before a sandbox is taken")
		require.ErrorIs(t, New(Config{}).Check(m), mount.ErrDenied)
		_, err := New(Config{}).Mount(t.Context(), m, "")
		require.ErrorIs(t, err, mount.ErrDenied, server)
	}
	m := example()
	m.Attributes["server"], m.Options = "127.0.0.1", []string{"port=1"}
	_, err := New(Config{Guard: mount.Guard{Loopback: true}}).Mount(t.Context(), m, "")
	require.ErrorIs(t, err, mount.ErrUnavailable)
	require.ErrorContains(t, err, "port 1")
}

func FuzzOptions(f *testing.F) {
	for _, s := range []string{
		"nolock,tcp,noresvport", "vers=3", "vers=4,minorversion=1", "ro,,rw", "timeo=1;id", "proto=udp", "rsize=$(id)", "vers=3\nsuid", "port=0", "bg",
		"addr=1.2.3.4", "timeo=6\x00", "nconnect=99", "-o", "=", "soft=",
	} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, attribute, list string) {
		m := example()
		m.Attributes["options"], m.Options = attribute, strings.Split(list, ",")
		v, err := parse(m)
		if err != nil {
			require.ErrorIs(t, err, mount.ErrInvalid)
			return
		}
		for _, o := range v.options {
			require.Contains(t, allowed, o.name)
			require.NotContains(t, ours, o.name)
			require.NotRegexp(t, `[^A-Za-z0-9_.=-]`, o.String(), "an option is one word that nothing can split")
		}
		require.Contains(t, []string{"3", "4.0", "4.1", "4.2"}, v.version)
		require.NotZero(t, v.port)
	})
}

func FuzzPlace(f *testing.F) {
	for _, s := range []string{"nas.example.com", "10.0.0.1", "::1", "[::1]", "h:/x", "-o", "a,b", "0x7f.1", "h\n"} {
		f.Add(s, "/share", "a/b")
	}
	f.Add("h", "/../x", "..")
	f.Fuzz(func(t *testing.T, server, path, sub string) {
		m := example()
		m.Attributes["server"], m.Attributes["path"], m.SubPath = server, path, sub
		v, err := parse(m)
		if err != nil {
			require.ErrorIs(t, err, mount.ErrInvalid)
			return
		}
		require.Regexp(t, `^[A-Za-z0-9.:-]+$`, v.server)
		require.Equal(t, byte('/'), v.path[0])
		for _, text := range []string{v.path[1:], v.sub} {
			for _, part := range strings.Split(text, "/") {
				require.NotContains(t, []string{".", ".."}, part)
			}
			require.NotRegexp(t, `[\x00-\x1f\x7f:]`, text)
		}
	})
}
