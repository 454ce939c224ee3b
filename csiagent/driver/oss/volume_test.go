package oss

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

func example() mount.Mount {
	return mount.Mount{
		Attributes: map[string]string{"bucket": "data", "url": "https://s3.example.com", "path": "/team"},
		Owner:      mount.Owner{UID: 1000, GID: 1001},
		Secret:     mount.Secret{"akId": "AKCANARY", "akSecret": "SKCANARY"},
	}
}

func token(m *mount.Mount) {
	m.Secret = mount.Secret{"AccessKeyId": "AKCANARY", "AccessKeySecret": "SKCANARY", "SecurityToken": "STSCANARY"}
}

func with(k, v string) func(*mount.Mount) { return func(m *mount.Mount) { m.Attributes[k] = v } }

func TestTheCommandLineSaysWhatTheVolumeIsAndNothingSecret(t *testing.T) {
	const base = "-f -o url=http://s3.example.com -o allow_other -o nosuid -o nodev -o passwd_file=/proc/self/fd/3"
	const v4 = " -o sigv4"
	const owner = " -o uid=1000 -o gid=1001 -o umask=022 -o connect_timeout=5 -o readwrite_timeout=30"
	for name, c := range map[string]struct {
		change func(*mount.Mount)
		client string
		want   string
	}{
		"a plain volume":             {func(*mount.Mount) {}, "s3fs", "data:/team /d " + base + owner + v4},
		"the whole bucket":           {with("path", "/"), "s3fs", "data /d " + base + owner + v4},
		"a sub path joins the path":  {func(m *mount.Mount) { m.SubPath = "a/b" }, "s3fs", "data:/team/a/b /d " + base + owner + v4},
		"read-only":                  {func(m *mount.Mount) { m.ReadOnly = true }, "s3fs", "data:/team /d " + base + " -o ro" + owner + v4},
		"read-only by its options":   {with("otherOpts", "-o ro"), "s3fs", "data:/team /d " + base + " -o ro" + owner + v4},
		"read-only by access mode":   {func(m *mount.Mount) { m.AccessMode = mount.ReadOnlyMany }, "ossfs", "data:/team /d " + base + " -o ro" + owner},
		"rw cannot undo read-only":   {func(m *mount.Mount) { m.ReadOnly = true; m.Options = []string{"rw"} }, "s3fs", "data:/team /d " + base + " -o ro" + owner + v4},
		"options in every form":      {with("otherOpts", "-o umask=022 -oallow_other  -o max_stat_cache_size=0,retries=2"), "s3fs", "data:/team /d " + base + " -o uid=1000 -o gid=1001 -o connect_timeout=5 -o readwrite_timeout=30 -o sigv4 -o umask=022 -o max_stat_cache_size=0 -o retries=2"},
		"an owner of its own":        {with("otherOpts", "-o uid=7,gid=8"), "s3fs", "data:/team /d " + base + " -o umask=022 -o connect_timeout=5 -o readwrite_timeout=30 -o sigv4 -o uid=7 -o gid=8"},
		"mountOptions of the volume": {func(m *mount.Mount) { m.Options = []string{"noexec", "_netdev"} }, "s3fs", "data:/team /d " + base + owner + v4 + " -o noexec"},
		"s3fs signs with v4":         {func(m *mount.Mount) { with("sigVersion", "v4")(m); with("region", "r-1")(m) }, "s3fs", "data:/team /d " + base + owner + " -o sigv4 -o endpoint=r-1"},
		"ossfs signs with v4":        {func(m *mount.Mount) { with("sigVersion", "v4")(m); with("region", "r-1")(m) }, "ossfs", "data:/team /d " + base + owner + " -o sigv4 -o region=r-1"},
		"a region for s3fs":          {with("otherOpts", "-o region=r-1"), "s3fs", "data:/team /d " + base + owner + v4 + " -o endpoint=r-1"},
		"a region for ossfs":         {with("otherOpts", "-o region=r-1"), "ossfs", "data:/team /d " + base + owner + " -o region=r-1"},
		"ossfs does for a region":    {with("region", "r-1"), "ossfs", "data:/team /d " + base + owner + " -o sigv4 -o region=r-1"},
		"s3fs does anyway":           {with("region", "r-1"), "s3fs", "data:/team /d " + base + owner + " -o sigv4 -o endpoint=r-1"},
		"s3fs signs with v1":         {with("sigVersion", "v1"), "s3fs", "data:/team /d " + base + owner + " -o sigv2"},
		"ossfs signs with v1 anyway": {with("sigVersion", "v1"), "ossfs", "data:/team /d " + base + owner},
		"s3fs is signed for":         {token, "s3fs", "data:/team /d " + base + owner + v4},
		"ossfs is signed for":        {token, "ossfs", "data:/team /d " + base + owner},
		"encrypted by the store":     {with("encrypted", "aes256"), "s3fs", "data:/team /d " + base + owner + " -o use_sse" + v4},
		"encrypted with a key":       {func(m *mount.Mount) { with("encrypted", "kms")(m); with("kmsKeyId", "k-1")(m) }, "ossfs", "data:/team /d " + base + owner + " -o use_sse=kmsid:k-1"},
		"what is off asks nothing":   {func(m *mount.Mount) { with("useSharedPath", "false")(m); with("overlay", "False")(m) }, "s3fs", "data:/team /d " + base + owner + v4},
		"a public bucket":            {with("authType", "public"), "s3fs", strings.Replace("data:/team /d "+base+owner, "passwd_file=/proc/self/fd/3", "public_bucket=1", 1)},
		"an address has no buckets":  {with("url", "https://10.0.0.7:9000"), "s3fs", strings.Replace("data:/team /d "+base+owner, "s3.example.com", "10.0.0.7:9000", 1) + " -o use_path_request_style" + v4},
		"ossfs 2 has its own file":   {func(*mount.Mount) {}, "ossfs2", "mount /d -c /proc/self/fd/3 -f"},
		"names in other letters":     {func(m *mount.Mount) { delete(m.Attributes, "url"); with(" URL ", "https://s3.example.com")(m) }, "s3fs", "data:/team /d " + base + owner + v4},
	} {
		t.Run(name, func(t *testing.T) {
			m := example()
			c.change(&m)
			v, err := parse(m)
			require.NoError(t, err)
			l, err := v.argv(c.client, "/bin/"+c.client, "/d")
			require.NoError(t, err)
			require.Equal(t, "/bin/"+c.client+" "+c.want, strings.Join(l.args, " "))
			require.NotContains(t, strings.Join(append(l.args, l.environment()...), " "), "CANARY")
		})
	}
}

func TestOssfs2SignsWithVersion4WhereItIsToldARegion(t *testing.T) {
	for name, c := range map[string]struct {
		attributes map[string]string
		want       bool
	}{
		"told nothing":              {nil, false},
		"told version 1":            {map[string]string{"sigVersion": "v1"}, false},
		"told a region":             {map[string]string{"region": "r-1"}, true},
		"told version 4 and region": {map[string]string{"region": "r-1", "sigVersion": "v4"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := example()
			maps.Copy(m.Attributes, c.attributes)
			v, err := parse(m)
			require.NoError(t, err)
			l, err := v.argv("ossfs2", "ossfs2", "/d")
			require.NoError(t, err)
			require.Equal(t, c.want, strings.Contains(l.file, "--oss_region=r-1\n"))
		})
	}
}

func TestTheCredentialFileIsWhatEachClientReads(t *testing.T) {
	m := example()
	v, err := parse(m)
	require.NoError(t, err)
	l, err := v.argv("s3fs", "s3fs", "/d")
	require.NoError(t, err)
	require.NotContains(t, l.file, "CANARY", "whoever is signed for has no key")
	l, err = v.argv("ossfs", "ossfs", "/d")
	require.NoError(t, err)
	require.NotContains(t, l.file, "CANARY", "whoever is signed for has no key")
	v.sigV2 = true
	l, err = v.argv("s3fs", "s3fs", "/d")
	require.NoError(t, err)
	require.Equal(t, "data:AKCANARY:SKCANARY\n", l.file)
	v.sigV2 = false
	l, err = v.argv("ossfs2", "ossfs2", "/d")
	require.NoError(t, err)
	for _, line := range []string{"--oss_bucket=data", "--oss_bucket_prefix=team/", "--oss_access_key_id=AKCANARY", "--oss_access_key_secret=SKCANARY", "--dir_mode=0755", "--file_mode=0644"} {
		require.Contains(t, l.file, line+"\n")
	}
	v.options = []option{{"retries", "2"}}
	_, err = v.argv("ossfs2", "ossfs2", "/d")
	require.ErrorIs(t, err, mount.ErrInvalid, "what it cannot do is refused, not dropped")

	m.Secret = mount.Secret{"AccessKeyID": "AKCANARY", "ACCESSKEYSECRET": "SKCANARY"}
	_, err = parse(m)
	require.NoError(t, err, "the other pair of names, in any letters")
}

func TestWhatIsWrongIsRefusedByNameWithoutSecrets(t *testing.T) {
	secret := func(s mount.Secret) func(*mount.Mount) { return func(m *mount.Mount) { m.Secret = s } }
	for name, c := range map[string]struct {
		change func(*mount.Mount)
		want   string
	}{
		"no bucket":                        {with("bucket", ""), "bucket"},
		"a bucket with an option":          {with("bucket", "a,allow_root"), "bucket"},
		"a bucket that is a flag":          {with("bucket", "-o"), "bucket"},
		"a bucket with a path":             {with("bucket", "data:/other"), "bucket"},
		"a relative path":                  {with("path", "team"), "path"},
		"a path that climbs":               {with("path", "/team/../other"), "path"},
		"a path with a colon":              {with("path", "/a:b"), "path"},
		"a path with a line":               {with("path", "/a\nb"), "path"},
		"a sub path that climbs":           {func(m *mount.Mount) { m.SubPath = "../x" }, "path"},
		"no url":                           {with("url", ""), "url"},
		"another scheme":                   {with("url", "file:///etc/passwd"), "url"},
		"credentials in the url":           {with("url", "https://AKCANARY:SKCANARY@s3.example.com"), "Secret"},
		"a url with an option":             {with("url", "https://s3.example.com,allow_root"), "url"},
		"a url with a path":                {with("url", "https://s3.example.com/x"), "url"},
		"a url with a query":               {with("url", "https://s3.example.com?x"), "url"},
		"a url with a space":               {with("url", "https://s3.exam ple.com"), "url"},
		"a url with the bucket":            {with("url", "https://data.s3.example.com"), "url"},
		"an address with a zone":           {with("url", "http://[fe80::1%25eth0]"), "url"},
		"an unknown attribute":             {with("useSharedPath", "true"), "useSharedPath"},
		"an attribute of somebody else":    {with("server", "x"), "server"},
		"an unknown encryption":            {with("encrypted", "rot13"), "encrypted"},
		"a key for no encryption":          {with("kmsKeyId", "k-1"), "encrypted"},
		"an encryption with no key":        {with("encrypted", "kms"), "kmsKeyId"},
		"a key with an option":             {func(m *mount.Mount) { with("encrypted", "kms")(m); with("kmsKeyId", "a,b")(m) }, "kmsKeyId"},
		"an encryption that ossfs2 lacks":  {func(m *mount.Mount) { with("encrypted", "aes256")(m); with("fuseType", "ossfs2")(m) }, "ossfs2"},
		"an attribute twice":               {with("BUCKET", "data"), "twice"},
		"an unknown client":                {with("fuseType", "rclone"), "fuseType"},
		"an unknown way to sign in":        {with("authType", "sts"), "authType"},
		"a role without a way to it":       {with("roleArn", "r"), "rrsa"},
		"half a role":                      {func(m *mount.Mount) { m.Secret = nil; with("authType", "rrsa")(m); with("roleArn", "r")(m) }, "oidcProviderArn"},
		"an unknown signature":             {with("sigVersion", "v3"), "sigVersion"},
		"v4 without a region":              {with("sigVersion", "v4"), "region"},
		"v1 with a region":                 {func(m *mount.Mount) { with("sigVersion", "v1")(m); with("region", "r-1")(m) }, "region"},
		"a bucket without a key, ossfs2":   {func(m *mount.Mount) { with("authType", "public")(m); with("fuseType", "ossfs2")(m) }, "ossfs2"},
		"a region with an option":          {with("region", "a,b"), "region"},
		"no secret":                        {secret(nil), "akId"},
		"half a secret":                    {secret(mount.Secret{"akId": "AKCANARY"}), "akSecret"},
		"half of each pair":                {secret(mount.Secret{"akId": "AKCANARY", "AccessKeySecret": "SKCANARY"}), "akSecret"},
		"a secret with a line":             {secret(mount.Secret{"akId": "AKCANARY", "akSecret": "SK\nCANARY"}), "control"},
		"a secret with a colon":            {secret(mount.Secret{"akId": "AK:CANARY", "akSecret": "SKCANARY"}), "colon"},
		"a token beside a lasting key":     {secret(mount.Secret{"akId": "AKCANARY", "akSecret": "SKCANARY", "SecurityToken": "STSCANARY"}), "SecurityToken"},
		"a token with a line":              {secret(mount.Secret{"AccessKeyId": "AKCANARY", "AccessKeySecret": "SKCANARY", "SecurityToken": "STS\nCANARY"}), "SecurityToken"},
		"a token with a strange end":       {secret(mount.Secret{"AccessKeyId": "AKCANARY", "AccessKeySecret": "SKCANARY", "SecurityToken": "STSCANARY", "Expiration": "CANARY"}), "Expiration"},
		"options without -o":               {with("otherOpts", "allow_other"), "otherOpts"},
		"an -o without options":            {with("otherOpts", "-o"), "otherOpts"},
		"another flag":                     {with("otherOpts", "-o ro -d"), "otherOpts"},
		"another passwd file":              {with("otherOpts", "-o passwd_file=/etc/shadow"), "passwd_file"},
		"set-user-ID programs":             {with("otherOpts", "-o umask=022,suid"), "suid"},
		"devices":                          {with("otherOpts", "-o dev"), `"dev"`},
		"a cache directory":                {with("otherOpts", "-o use_cache=/"), "use_cache"},
		"a role of the machine":            {with("otherOpts", "-o iam_role=auto"), "iam_role"},
		"a log of the wire":                {with("otherOpts", "-o curldbg"), "curldbg"},
		"another url":                      {with("otherOpts", "-o url=http://169.254.169.254"), `"url"`},
		"no certificate check":             {with("otherOpts", "-o no_check_certificate"), "no_check_certificate"},
		"a value where none belongs":       {with("otherOpts", "-o allow_other=1"), "allow_other"},
		"no value where one belongs":       {with("otherOpts", "-o umask"), "umask"},
		"a umask that is none":             {with("otherOpts", "-o umask=rwx"), "umask"},
		"a debug log, which holds headers": {with("otherOpts", "-o dbglevel=debug"), "dbglevel"},
		"a quote":                          {with("otherOpts", `-o "ro"`), "option"},
		"an empty option":                  {with("otherOpts", "-o ro,,rw"), "option"},
		"an option that no client takes":   {with("otherOpts", "-o noxattr"), "noxattr"},
		"an option in mountOptions":        {func(m *mount.Mount) { m.Options = []string{"suid"} }, "suid"},
	} {
		t.Run(name, func(t *testing.T) {
			m := example()
			c.change(&m)
			_, err := parse(m)
			require.ErrorIs(t, err, mount.ErrInvalid)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "CANARY")
		})
	}
}

func TestEachAttributeOfTheVendorIsHonouredOrRefusedByName(t *testing.T) {
	for _, name := range []string{
		"bucket", "url", "path", "otherOpts", "fuseType", "authType", "secretRef", "sigVersion", "region", "encrypted", "kmsKeyId",
		"agenticBucket", "bucketSpace", "bucketSpacePrefix", "volumeAs", "useSharedPath", "metricsTop", "dnsPolicy", "directAssigned",
		"runtimeClass", "overlay", "containerNetworkFilesystem", "roleName", "ramRole", "roleArn", "oidcProviderArn", "serviceAccountName",
		"assumeRoleArn", "externalId", "secretProviderClass", "sandboxId", "sandboxCredProviderName", "credentialProviderName",
	} {
		small := strings.ToLower(name)
		_, no := refused[small]
		require.NotEqual(t, honoured[small], no, name)
		if !no {
			continue
		}
		m := example()
		with(name, "true")(&m)
		_, err := parse(m)
		require.ErrorIs(t, err, mount.ErrInvalid, name)
		require.ErrorContains(t, err, name+" is not supported; ")
	}
}

// given is all that a client and those who act for it get to know of a volume.
type given struct {
	launch
	origin
	Role
}

// An attribute that is let through and changes nothing that its client is given would be ignored.
func TestEachAttributeThatIsHonouredHasAnEffectOnEachClient(t *testing.T) {
	bin := t.TempDir()
	for client := range instead {
		require.NoError(t, os.WriteFile(filepath.Join(bin, client), nil, 0o700)) //nolint:gosec // a program
	}
	type values = map[string]string
	role := values{"authtype": "rrsa", "rolearn": "r", "oidcproviderarn": "p"}
	region, v4, kms := values{"region": "r-1"}, values{"region": "r-1", "sigversion": "v4"}, values{"encrypted": "kms", "kmskeyid": "k"}
	cases := []struct {
		name, value string
		beside      values
		refusal     string // its word for the attribute, by clients that refuse it; the attribute's name when empty
	}{
		{"bucket", "other", nil, ""},
		{"url", "https://other.example.com", nil, ""},
		{"url", "http://s3.example.com", nil, ""},
		{"path", "/other", nil, ""},
		{"otheropts", "-o umask=077", nil, ""},
		{"otheropts", "-o retries=2", nil, `"retries"`},
		{"otheropts", "-o ro", nil, ""},
		{"fusetype", "s3fs", nil, ""},
		{"fusetype", "ossfs", nil, ""},
		{"fusetype", "ossfs2", nil, ""},
		{"authtype", "public", nil, ""},
		{"authtype", "rrsa", values{"rolearn": "r", "oidcproviderarn": "p"}, ""},
		{"sigversion", "v1", region, ""},
		{"sigversion", "v4", nil, ""},
		{"region", "r-1", nil, ""},
		{"region", "r-1", values{"sigversion": "v1"}, ""},
		{"region", "r-2", v4, ""},
		{"encrypted", "aes256", nil, ""},
		{"encrypted", "aes256", kms, ""},
		{"kmskeyid", "k", nil, ""},
		{"kmskeyid", "other", kms, "encrypted"},
		{"rolearn", "other", role, ""},
		{"oidcproviderarn", "other", role, ""},
		{"rolearn", "r", nil, ""},
		{"oidcproviderarn", "p", nil, ""},
	}
	d := New(Config{Path: []string{bin}})
	give := func(client string, attributes ...values) (given, error) {
		m := example()
		m.Attributes["fusetype"] = client
		for _, list := range attributes {
			maps.Copy(m.Attributes, list)
		}
		if m.Attributes["authtype"] == "rrsa" {
			m.Secret = nil
		}
		v, l, err := d.command(m, "/d")
		if err != nil {
			return given{}, err
		}
		return given{l, originOf(&v), v.role}, nil
	}
	for client := range instead {
		unseen := maps.Clone(honoured)
		for _, c := range cases {
			delete(unseen, c.name)
			t.Run(fmt.Sprint(client, " ", c.name, " ", c.value, " beside ", c.beside), func(t *testing.T) {
				before, _ := give(client, c.beside)
				after, err := give(client, c.beside, values{c.name: c.value})
				switch {
				case err != nil:
					require.ErrorIs(t, err, mount.ErrInvalid)
					require.Contains(t, strings.ToLower(err.Error()), cmp.Or(c.refusal, c.name))
				case c.name == "fusetype" && c.value == client:
				default:
					require.NotEqual(t, before, after)
				}
			})
		}
		require.Empty(t, unseen, "attributes that no case is about")
	}
}

func TestTheSchemeOfAnEndpointIsHTTPSUnlessItIsInternal(t *testing.T) {
	for text, want := range map[string]string{
		"oss-cn-hangzhou.aliyuncs.com":          "https://oss-cn-hangzhou.aliyuncs.com",
		"oss-cn-hangzhou-internal.aliyuncs.com": "http://oss-cn-hangzhou-internal.aliyuncs.com",
		"s3.example.com:9000":                   "https://s3.example.com:9000",
		"http://[::1]:80/":                      "http://[::1]:80",
	} {
		u, err := endpoint(text, "data")
		require.NoError(t, err, text)
		require.Equal(t, want, u.String())
	}
}

func TestAClientThatIsNotInstalledIsReplacedByOneThatIs(t *testing.T) {
	_, _, err := choose("ossfs", []string{t.TempDir()})
	require.ErrorContains(t, err, "ossfs, s3fs")
	name, program, err := choose("s3fs", []string{"/nonexistent", "/usr/bin"})
	if err != nil {
		t.Skip("s3fs is not installed")
	}
	require.Equal(t, []string{"s3fs", "/usr/bin/s3fs"}, []string{name, program})
}

func TestTheEndOfAClientIsExplainedByWhatItWrote(t *testing.T) {
	const line = "2026-01-01T00:00:00.000Z [CRT] s3fs.cpp:s3fs_check_service(1): "
	const host = "(host=http://127.0.0.1:1) - result of checking service.\n"
	for said, want := range map[string]error{
		line + "invalid credentials" + host:                     mount.ErrDenied,
		line + "bucket or key not found" + host:                 mount.ErrNotFound,
		line + "unable to connect" + host:                       mount.ErrUnavailable,
		line + "Bad Request" + host:                             mount.ErrInvalid,
		"fuse: unknown option `region=a'":                       mount.ErrInvalid,
		"[INF] forbidden\n" + line + "unable to connect" + host: mount.ErrUnavailable,
	} {
		require.ErrorIs(t, classify(said), want, said)
	}
	for _, said := range []string{"", "[INF] invalid credentials\n", "something else\n"} {
		err := classify(said)
		require.Error(t, err)
		for _, kind := range []error{mount.ErrDenied, mount.ErrInvalid, mount.ErrNotFound, mount.ErrUnavailable} {
			require.NotErrorIs(t, err, kind)
		}
	}
}

func FuzzOtherOpts(f *testing.F) {
	for _, s := range []string{
		"-o umask=022 -o allow_other", "-oallow_other,suid", "-o a;b", "-o ro,,", "-o\nuid=0", "-o uid=0 -d", "--help", "-o passwd_file=/x",
		"-o uid=$(id)", "-o umask=022\x00,suid", "-o retries=-1", "-o region=a=b",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := otherOpts(text)
		if err != nil {
			require.ErrorIs(t, err, mount.ErrInvalid)
			return
		}
		for _, o := range list {
			require.Contains(t, allowed, o.name)
			require.NotRegexp(t, `[^A-Za-z0-9_.=-]`, o.String(), "an option is one word that no client and no shell can split")
		}
	})
}

func FuzzEndpoint(f *testing.F) {
	for _, s := range []string{"https://s3.example.com", "http://127.0.0.1:80", "//h", "http://a,b", "http://[::ffff:1.2.3.4]", "http://0x7f.1", "http://h\\@x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := endpoint(text, "data")
		if err != nil {
			require.ErrorIs(t, err, mount.ErrInvalid)
			return
		}
		require.Regexp(t, `^https?://[A-Za-z0-9.:\[\]-]+$`, u.String())
	})
}

func TestAVolumeThatNoClientCanServeIsRefusedBeforeOneIsStarted(t *testing.T) {
	bin := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bin, "s3fs"), []byte("#!/bin/sh\nexit 1\n"), 0o700)) //nolint:gosec // a program
	good := mount.Mount{
		Attributes: map[string]string{"bucket": "bucket", "url": "http://127.0.0.1:1"},
		Secret:     mount.Secret{"akId": "id", "akSecret": "secret"},
	}
	d := New(Config{Path: []string{bin}, Guard: local})
	require.NoError(t, d.Check(good))
	require.ErrorContains(t, New(Config{Path: []string{t.TempDir()}}).Check(good), "installed")
	bad := good
	bad.Attributes = map[string]string{"bucket": "bucket", "url": "http://127.0.0.1:1", "otherOpts": "-o suid"}
	require.ErrorIs(t, d.Check(bad), mount.ErrInvalid)
	bad = good
	bad.Secret = nil
	require.ErrorIs(t, d.Check(bad), mount.ErrInvalid)
}

func TestAVolumeIsCheckedWhereNoClientIsInstalled(t *testing.T) {
	m := mount.Mount{
		Attributes: map[string]string{"bucket": "bucket", "url": "http://127.0.0.1:1"}, Secret: mount.Secret{"akId": "id", "akSecret": "secret"},
	}
	require.NoError(t, Check(m, local))
	m.Attributes["bucket"] = "B"
	require.ErrorIs(t, Check(m, local), mount.ErrInvalid)
}
