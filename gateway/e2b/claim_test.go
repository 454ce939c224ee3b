package e2b_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/warmpool"
)

const (
	volumeName   = "e2b.agents.kruise.io/csi-volume-name"
	claimName    = "e2b.agents.kruise.io/csi-pvc-name"
	mountPoint   = "e2b.agents.kruise.io/csi-mount-point"
	subPath      = "e2b.agents.kruise.io/csi-subpath"
	volumeConfig = "e2b.agents.kruise.io/csi-volume-config"
	ephemeralKey = "sandgate.dev/ephemeral-volumes"
)

type fields = map[string]any

// with is a create body with metadata.
func with(pairs ...string) fields {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return fields{"templateID": "base", "metadata": m}
}

func config(json string) fields { return with(volumeConfig, json) }

// Everything that a create request can be refused for, by what the answer must say. No case may take stock.
var refusals = []struct {
	name   string
	body   any // a string is sent as it is
	status int
	want   []string
}{
	// Volumes in memory.
	{"an ephemeral volume of another container", with(ephemeralKey, `[{"name":"a","size":"1Mi","mounts":[{"container":"other","path":"/a"}]}]`), 400,
		[]string{`ephemeral-volumes[0].mounts[0].container: template "base" has no container of that name`}},
	{"more than the sandbox's memory, at a volume's path", with(ephemeralKey, `[{"name":"a","size":"65Mi","mounts":[{"path":"/a"}]}]`, volumeConfig, `[{"pvName":"scratch","mountPath":"/a"}]`), 400,
		[]string{"ephemeral-volumes[0].size: ", "its memory is limited to 67108864", "is the target of another mount"}},
	// The body.
	{"broken JSON", `{"templateID":`, 400, []string{"not valid JSON"}},
	{"something after the JSON", `{"templateID":"base"} {}`, 400, []string{"not valid JSON"}},
	{"an array", `[]`, 400, []string{"JSON object"}},
	{"bytes that are no text", "{\"templateID\":\"\xff\"}", 400, []string{"UTF-8"}},
	{"nesting without end", strings.Repeat(`{"a":`, 200_000), 400, []string{"not valid JSON"}},
	{"no template", fields{"timeout": 5}, 400, []string{"templateID: is required"}},
	{"no body", ``, 400, []string{"templateID: is required"}},
	{"a template that is no string", fields{"templateID": 5}, 400, []string{"templateID: must be a string"}},
	{"an unknown template", fields{"templateID": "none"}, 404, []string{"none"}},
	{"a template with an endless name", fields{"templateID": strings.Repeat("x", 600)}, 400, []string{"templateID: is longer than 512 bytes"}},
	{"an environment that no program could be started with", fields{"templateID": "base", "envVars": fields{"A": strings.Repeat("x", 128<<10-2)}}, 400, []string{"envVars.A: is longer than 131071 bytes"}},
	{"a name in another case", fields{"templateid": "base"}, 400, []string{"templateid", "templateID: is required"}},
	{"a field twice", `{"templateID":"base","timeout":5,"timeout":6}`, 400, []string{"timeout: is given twice"}},
	{"an unknown field that asks for something", fields{"templateID": "base", "readOnlyRoot": true}, 400, []string{"readOnlyRoot"}},
	{"a timeout of zero", fields{"templateID": "base", "timeout": 0}, 400, []string{"timeout: must be between 1 and 86400"}},
	{"a negative timeout", fields{"templateID": "base", "timeout": -1}, 400, []string{"timeout"}},
	{"a timeout beyond the limit", fields{"templateID": "base", "timeout": 86401}, 400, []string{"timeout"}},
	{"a timeout that overflows", `{"templateID":"base","timeout":99999999999999999999}`, 400, []string{"timeout: must be a whole number"}},
	{"a timeout with a fraction", fields{"templateID": "base", "timeout": 1.5}, 400, []string{"timeout: must be a whole number"}},
	{"auto-pause", fields{"templateID": "base", "autoPause": true}, 400, []string{"autoPause", "not supported"}},
	{"auto-resume", fields{"templateID": "base", "autoResume": fields{"enabled": true}}, 400, []string{"autoResume.enabled", "not supported"}},
	{"auto-pause that is no boolean", fields{"templateID": "base", "autoPause": "true"}, 400, []string{"autoPause: must be true or false"}},
	{"metadata that is no map", fields{"templateID": "base", "metadata": []string{}}, 400, []string{"metadata: must be a JSON object"}},
	{"metadata that is no text", fields{"templateID": "base", "metadata": fields{"n": 1}}, 400, []string{"metadata.n: must be a string"}},
	{"environment that is no text", fields{"templateID": "base", "envVars": fields{"A": nil}}, 400, []string{"envVars.A: must be a string"}},
	{"an environment name with =", fields{"templateID": "base", "envVars": fields{"A=B": "c"}}, 400, []string{`envVars["A=B"]`}},
	{"an environment value with NUL", fields{"templateID": "base", "envVars": fields{"A": "b\x00c"}}, 400, []string{"envVars.A", "NUL"}},
	{"MCP servers", fields{"templateID": "base", "mcp": fields{"github": fields{}}}, 400, []string{"mcp", "not supported"}},
	{"identity tokens", fields{"templateID": "base", "iam": fields{"tokens": fields{"a": fields{"audience": "x"}}}}, 400, []string{"iam", "not supported"}},
	{"a private port", fields{"templateID": "base", "network": fields{"allowPublicTraffic": false}}, 400, []string{"network.allowPublicTraffic"}},
	{"a fine egress rule", fields{"templateID": "base", "network": fields{"denyOut": []string{"10.0.0.0/8"}}}, 400, []string{"network.denyOut"}},
	{"an allow list", fields{"templateID": "base", "network": fields{"allowOut": []string{"1.1.1.1"}, "denyOut": []string{"0.0.0.0/0"}}}, 400, []string{"network.allowOut: network rules finer"}},
	{"an egress proxy", fields{"templateID": "base", "network": fields{"egressProxy": fields{"address": "p:1"}}}, 400, []string{"network.egressProxy"}},
	{"name servers", fields{"templateID": "base", "network": fields{"dnsServers": []string{"9.9.9.9"}}}, 400, []string{"network.dnsServers"}},
	{"several at once", fields{"templateID": "base", "timeout": 0, "autoPause": true, "envVars": fields{"": "x"}}, 400, []string{"timeout", "autoPause", "envVars"}},

	// One mount by its three keys.
	{"a sub-path alone", with(subPath, "a"), 400, []string{"csi-subpath", volumeName, mountPoint}},
	{"a volume without a mount point", with(volumeName, "scratch"), 400, []string{"csi-volume-name", mountPoint}},
	{"a mount point without a volume", with(mountPoint, "/data"), 400, []string{"csi-mount-point", volumeName}},
	{"an unknown key of the family", with(volumeName, "scratch", mountPoint, "/data", "e2b.agents.kruise.io/csi-read-only", "true"), 400, []string{"csi-read-only"}},
	{"a key of the family in another case", with("E2B.agents.kruise.io/CSI-volume-name", "scratch", mountPoint, "/data"), 400, []string{"CSI-volume-name", "is not a key"}},
	{"an unknown volume", with(volumeName, "none", mountPoint, "/data"), 400, []string{"csi-volume-name"}},
	{"somebody's volume", with(volumeName, "somebodys", mountPoint, "/data"), 400, []string{"csi-volume-name"}},
	{"an unknown claim", with(claimName, "none", mountPoint, "/data"), 400, []string{"csi-pvc-name: no PersistentVolumeClaim of that name that you may mount"}},
	{"a claim without a mount point", with(claimName, "work"), 400, []string{"csi-pvc-name", mountPoint}},
	{"a claim beside a volume", with(volumeName, "scratch", claimName, "work", mountPoint, "/data"), 400, []string{"csi-volume-name: names a volume beside csi-pvc-name"}},
	{"an unknown claim in a config", config(`[{"pvcName":"none","mountPath":"/data"}]`), 400, []string{"csi-volume-config[0].pvcName: no PersistentVolumeClaim"}},
	{"a claim beside a volume in a config", config(`[{"pvcName":"none","pvName":"scratch","mountPath":"/data"}]`), 400, []string{
		"csi-volume-config[0].pvName: names a volume beside pvcName",
	}},
	{"an unknown driver", with(volumeName, "foreign-drv", mountPoint, "/data"), 400, []string{"csi-volume-name", "driver"}},
	{"a volume whose Secret is missing", with(volumeName, "no-secret", mountPoint, "/data"), 400, []string{"csi-volume-name", "ecret"}},
	{"a source that sandboxes cannot mount", with(volumeName, "iscsi", mountPoint, "/data"), 400, []string{"csi-volume-name", "iscsi"}},
	{"a block volume", with(volumeName, "block", mountPoint, "/data"), 400, []string{"csi-volume-name", "Block"}},
	{"a volume that is being deleted", with(volumeName, "going", mountPoint, "/data"), 400, []string{"csi-volume-name", "being deleted"}},
	{"a volume whose mount options are not allowed", with(volumeName, "options", mountPoint, "/data"), 400, []string{"csi-volume-name", `mount option "suid"`}},
	{"a volume that is set up wrongly", with(volumeName, "no-size", mountPoint, "/data"), 400, []string{"csi-volume-name: cannot be mounted", "attribute size"}},
	{"a volume that is no name", with(volumeName, "../x", mountPoint, "/data"), 400, []string{"csi-volume-name"}},
	{"a relative mount point", with(volumeName, "scratch", mountPoint, "data"), 400, []string{"csi-mount-point"}},
	{"a mount point that climbs", with(volumeName, "scratch", mountPoint, "/data/../etc"), 400, []string{"csi-mount-point"}},
	{"a mount point over the root", with(volumeName, "scratch", mountPoint, "/"), 400, []string{"csi-mount-point"}},
	{"a mount point below /proc", with(volumeName, "scratch", mountPoint, "/proc/self"), 400, []string{"csi-mount-point"}},
	{"a mount point over /etc", with(volumeName, "scratch", mountPoint, "/etc"), 400, []string{"csi-mount-point"}},
	{"a mount point above the template's", with(volumeName, "scratch", mountPoint, "/opt"), 400, []string{"csi-mount-point"}},
	{"a mount point below the template's", with(volumeName, "scratch", mountPoint, "/opt/template/x"), 400, []string{"csi-mount-point"}},
	{"a mount point of 10,000 bytes", with(volumeName, "scratch", mountPoint, "/"+strings.Repeat("a", 10_000)), 400, []string{"csi-mount-point"}},
	{"a mount point of 17 components", with(volumeName, "scratch", mountPoint, strings.Repeat("/a", 17)), 400, []string{"csi-mount-point"}},
	{"a mount point with a NUL", with(volumeName, "scratch", mountPoint, "/da\x00ta"), 400, []string{"csi-mount-point"}},
	{"a mount point with //", with(volumeName, "scratch", mountPoint, "/da//ta"), 400, []string{"csi-mount-point"}},
	{"a mount point with :", with(volumeName, "scratch", mountPoint, "/da:ta"), 400, []string{"csi-mount-point"}},
	{"a mount point with a dot for a name", with(volumeName, "scratch", mountPoint, "/data/./x"), 400, []string{"csi-mount-point"}},
	{"a mount point with a line end", with(volumeName, "scratch", mountPoint, "/data\n"), 400, []string{"csi-mount-point: must not contain control"}},
	{"a mount point with a DEL", with(volumeName, "scratch", mountPoint, "/da\x7fta"), 400, []string{"csi-mount-point: must not contain control"}},
	{"a mount point with a name of 256 bytes", with(volumeName, "scratch", mountPoint, "/"+strings.Repeat("a", 256)), 400, []string{"csi-mount-point"}},
	{"a mount point that is empty", with(volumeName, "scratch", mountPoint, ""), 400, []string{"csi-mount-point: is required"}},
	{"a sub-path of 10,000 bytes", with(volumeName, "scratch", mountPoint, "/data", subPath, strings.Repeat("a/", 5000)), 400, []string{"csi-subpath"}},
	{"a sub-path of 17 components", with(volumeName, "scratch", mountPoint, "/data", subPath, strings.Repeat("a/", 17)), 400, []string{"csi-subpath"}},
	{"a sub-path with a NUL", with(volumeName, "scratch", mountPoint, "/data", subPath, "a\x00b"), 400, []string{"csi-subpath"}},
	{"a sub-path with //", with(volumeName, "scratch", mountPoint, "/data", subPath, "a//b"), 400, []string{"csi-subpath"}},
	{"a sub-path with :", with(volumeName, "scratch", mountPoint, "/data", subPath, "a:b"), 400, []string{"csi-subpath"}},
	{"a sub-path of a dot", with(volumeName, "scratch", mountPoint, "/data", subPath, "."), 400, []string{"csi-subpath"}},
	{"a placeholder without its metadata", with(volumeName, "scratch", mountPoint, "/data", subPath, "u/${USER_ID}"), 400, []string{"csi-subpath", "USER_ID"}},
	{"a placeholder that climbs once filled in", with(volumeName, "scratch", mountPoint, "/data", subPath, "u/${USER_ID}/x", "USER_ID", ".."), 400, []string{"csi-subpath: after its placeholders"}},
	{"a placeholder that is a path", with(volumeName, "scratch", mountPoint, "/data", subPath, "u/${USER_ID}", "USER_ID", "a/b"), 400, []string{"csi-subpath", "must not contain /"}},
	{"a sub-path that climbs", with(volumeName, "scratch", mountPoint, "/data", subPath, "a/../../b"), 400, []string{"csi-subpath"}},
	{"an absolute sub-path", with(volumeName, "scratch", mountPoint, "/data", subPath, "/a"), 400, []string{"csi-subpath"}},
	{"a sub-path with an unknown placeholder", with(volumeName, "scratch", mountPoint, "/data", subPath, "${HOME}"), 400, []string{"csi-subpath"}},
	{"three faults of one mount", with(volumeName, "BAD", mountPoint, "x", subPath, ".."), 400, []string{"csi-volume-name", "csi-mount-point", "csi-subpath"}},
	{"a pool without the runtime", fields{"templateID": "plain", "metadata": fields{volumeName: "scratch", mountPoint: "/data"}}, 400, []string{"plain", "csi"}},
	{"a pool without the runtime, for a volume that is no name", fields{"templateID": "plain", "metadata": fields{volumeName: "BAD", mountPoint: "/data"}}, 400, []string{"csi-volume-name: must be the name", `template "plain" cannot mount volumes`}},

	// Many mounts.
	{"a config that is no JSON", config(`{{`), 400, []string{"csi-volume-config: is not valid JSON"}},
	{"an empty config", config(``), 400, []string{"csi-volume-config"}},
	{"a config that is no array", config(`{"pvName":"scratch","mountPath":"/data"}`), 400, []string{"csi-volume-config: must be a JSON array"}},
	{"a config with something after it", config(`[] x`), 400, []string{"csi-volume-config: is not valid JSON"}},
	{"an item that is no object", config(`["scratch"]`), 400, []string{"csi-volume-config[0]: must be a JSON object"}},
	{"an unknown field", config(`[{"pvName":"scratch","mountPath":"/a"},{"pvName":"scratch","mountPath":"/b","readonly":true}]`), 400, []string{"csi-volume-config[1].readonly"}},
	{"a field in another case", config(`[{"PVName":"scratch","mountPath":"/a"}]`), 400, []string{"csi-volume-config[0].PVName", "csi-volume-config[0].pvName: is required"}},
	{"a field twice in an item", config(`[{"pvName":"scratch","mountPath":"/a","mountPath":"/b"}]`), 400, []string{"csi-volume-config[0].mountPath: is given twice"}},
	{"wrong types", config(`[{"pvName":1,"mountPath":["/a"],"readOnly":"yes","subPath":{}}]`), 400, []string{
		"csi-volume-config[0].pvName: must be a string", "csi-volume-config[0].mountPath: must be a string",
		"csi-volume-config[0].readOnly: must be true or false", "csi-volume-config[0].subPath: must be a string",
	}},
	{"a mountID that is empty", config(`[{"pvName":"scratch","mountPath":"/a","mountID":""}]`), 400, []string{"csi-volume-config[0].mountID"}},
	{"a mountID that is no ID", config(`[{"pvName":"scratch","mountPath":"/a","mountID":"a b"}]`), 400, []string{"csi-volume-config[0].mountID"}},
	{"the same mountID twice", config(`[{"pvName":"scratch","mountPath":"/a","mountID":"x"},{"pvName":"scratch","mountPath":"/b","mountID":"x"}]`), 400, []string{"csi-volume-config[1].mountID"}},
	{"equal targets", config(`[{"pvName":"scratch","mountPath":"/a"},{"pvName":"pv-nas-fast","mountPath":"/a/"}]`), 400, []string{"csi-volume-config[1].mountPath"}},
	{"nested targets", config(`[{"pvName":"scratch","mountPath":"/a"},{"pvName":"pv-nas-fast","mountPath":"/a/b"}]`), 400, []string{"csi-volume-config[1].mountPath"}},
	{"17 mounts", config(mountsOf(17)), 400, []string{"csi-volume-config: must have at most 16"}},
	{"100 mounts", config(mountsOf(100)), 400, []string{"csi-volume-config: must have at most 16"}},
	{"a config of a quarter megabyte", config(`[` + strings.Repeat(" ", 256<<10) + `]`), 400, []string{"csi-volume-config: is longer"}},
	{
		"faults of every layer at once",
		config(`[{"pvName":"none","mountPath":"/ok"},{"pvName":"scratch","mountPath":"/etc/x"},{"pvName":7,"mountPath":"/proc"},{"pvName":"scratch","mountPath":"/ok/below","bogus":1},{"pvName":"foreign-drv","mountPath":"/d","subPath":"../x"}]`),
		400,
		[]string{
			"csi-volume-config[0].pvName", "csi-volume-config[1].mountPath", "csi-volume-config[2].pvName", "csi-volume-config[2].mountPath",
			"csi-volume-config[3].bogus", "csi-volume-config[3].mountPath", "csi-volume-config[4].subPath",
		},
	},

	// E2B's own field.
	{"volumeMounts as a map", fields{"templateID": "base", "volumeMounts": fields{"/data": "scratch"}}, 400, []string{"volumeMounts: must be a JSON array"}},
	{"volumeMounts in somebody else's words", fields{"templateID": "base", "volumeMounts": []fields{{"volumeID": "scratch", "mountPath": "/data"}}}, 400, []string{"volumeMounts[0].mountPath", "volumeMounts[0].name: is required"}},
	{"an unknown volume in volumeMounts", fields{"templateID": "base", "volumeMounts": []fields{{"name": "none", "path": "/data"}}}, 400, []string{"volumeMounts[0].name"}},
	{"an unclean path in volumeMounts", fields{"templateID": "base", "volumeMounts": []fields{{"name": "scratch", "path": "/a/./b"}}}, 400, []string{"volumeMounts[0].path"}},
	{
		"a clash between both fields",
		fields{"templateID": "base", "metadata": fields{volumeName: "scratch", mountPoint: "/data"}, "volumeMounts": []fields{{"name": "scratch", "path": "/data"}}},
		400,
		[]string{"volumeMounts[0].path"},
	},
	{
		"too many in both fields together",
		fields{"templateID": "base", "metadata": fields{volumeConfig: mountsOf(16)}, "volumeMounts": []fields{{"name": "scratch", "path": "/data"}}},
		400,
		[]string{"volumeMounts[0].name", "16"},
	},
}

func mountsOf(n int) string {
	var items []string
	for i := range n {
		items = append(items, fmt.Sprintf(`{"pvName":"scratch","mountPath":"/m%d"}`, i))
	}
	return "[" + strings.Join(items, ",") + "]"
}

func TestEveryRefusalNamesItsPlaceAndTakesNoStock(t *testing.T) {
	w := newWorld(t)
	for _, r := range refusals {
		t.Run(r.name, func(t *testing.T) {
			for _, path := range []string{"/sandboxes", "/v2/sandboxes"} {
				a := w.as(aliceKey, http.MethodPost, path, r.body)
				require.Equal(t, r.status, a.status, "%s", a.body)
				message := a.message(t)
				for _, want := range r.want {
					require.Contains(t, message, want)
				}
			}
			templates, err := w.pool.Templates(t.Context())
			require.NoError(t, err)
			for _, tpl := range templates {
				require.Equal(t, tpl.Desired, tpl.Ready, "stock of %s was taken", tpl.Name)
			}
		})
	}
}

func TestTheSystemsOwnPathsAreNoTargets(t *testing.T) {
	w := newWorld(t)
	var targets []string
	for _, p := range []string{
		"/proc", "/sys", "/dev", "/etc", "/run", "/var/run", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/boot",
		"/.sandgate", "/var/run/secrets/kubernetes.io/serviceaccount", "/opt/template",
	} {
		targets = append(targets, p, p+"/", p+"/below")
	}
	for _, target := range append(targets, "/", "/tmp", "/tmp/", "/var", "/opt") {
		a := w.as(aliceKey, http.MethodPost, "/v2/sandboxes", with(volumeName, "scratch", mountPoint, target))
		require.Equal(t, 400, a.status, "%s: %s", target, a.body)
		require.Contains(t, a.message(t), "csi-mount-point: must not be", target)
	}
	require.Zero(t, w.pool.Claimed())
}

func TestPathsThatOnlyLookOddAreTaken(t *testing.T) {
	for asked, want := range map[string]string{
		"/..foo/a..b": "/..foo/a..b", "/data/": "/data", "/etcetera": "/etcetera", "/tmp/x": "/tmp/x", "/var/lib": "/var/lib", "/usr2": "/usr2",
		"/ü x": "/ü x", strings.Repeat("/a", 16): strings.Repeat("/a", 16), "/" + strings.Repeat("a", 255): "/" + strings.Repeat("a", 255),
	} {
		w := newWorld(t)
		id := w.make(with(volumeName, "scratch", mountPoint, asked, subPath, "..foo/a..b/${USER_ID}-${SANDBOX_ID}/", "USER_ID", "ada"))
		m := w.pool.Started(warmpool.ID(id)).Mounts[0]
		require.Equal(t, want, m.Target)
		require.Equal(t, "..foo/a..b/ada-"+id, m.SubPath)
	}
}

func TestARefusedVolumeReadsTheSameAsNone(t *testing.T) {
	w := newWorld(t)
	ask := func(volume string) string {
		return w.as(aliceKey, http.MethodPost, "/v2/sandboxes", with(volumeName, volume, mountPoint, "/data")).message(t)
	}
	require.Equal(t, ask("none"), ask("somebodys"))
}

func TestHarmlessDefaultsAreAccepted(t *testing.T) {
	w := newWorld(t)
	for _, body := range []fields{
		{"secure": true}, {"secure": false}, {"autoPause": false}, {"autoPauseMemory": true}, {"autoResume": fields{"enabled": false}},
		{"autoResume": nil}, {"network": nil}, {"network": fields{}}, {"network": fields{"allowOut": []string{}, "denyOut": []string{}, "rules": fields{}, "egressProxy": nil, "allowPublicTraffic": true}},
		{"mcp": nil}, {"iam": fields{"tokens": fields{}}}, {"metadata": nil}, {"envVars": fields{}}, {"volumeMounts": []fields{}}, {"fromTheFuture": false},
		{"fromTheFuture": fields{"a": []int{}}}, {"metadata": fields{volumeConfig: "[]"}}, {"timeout": 86400}, {"allow_internet_access": true},
		{"envVars": fields{"A": strings.Repeat("x", 128<<10-3)}},
	} {
		body["templateID"] = "base"
		a := w.as(aliceKey, http.MethodPost, "/v2/sandboxes", body)
		require.Equal(t, 201, a.status, "%v: %s", body, a.body)
	}
}

func TestTakingTheInternetAwayIsHonoured(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		body fields
		want bool
	}{
		{fields{}, true},
		{fields{"allow_internet_access": false}, false},
		{fields{"network": fields{"denyOut": []string{"0.0.0.0/0"}}}, false},
		{fields{"allow_internet_access": true, "network": fields{"denyOut": []string{"0.0.0.0/0", "::/0"}}}, false},
	} {
		sb, err := w.pool.Get(t.Context(), warmpool.ID(w.make(c.body)))
		require.NoError(t, err)
		require.Equal(t, c.want, sb.AllowInternet, "%v", c.body)
	}
}

func TestMountsAreAskedForInThreeWays(t *testing.T) {
	type m struct {
		volume, target, sub string
		ro                  bool
	}
	cases := []struct {
		name string
		body fields
		want []m
		log  string
	}{
		{
			"the page's single mount",
			with(volumeName, "scratch", mountPoint, "/data-oss", subPath, "data-subPath"),
			[]m{{"scratch", "/data-oss", "data-subPath", false}},
			"",
		},
		{
			"the page's array",
			config(`[{"pvName":"pv-nas-fast","mountPath":"/data-nas","subPath":"data-subPath","readOnly":true}]`),
			[]m{{"pv-nas-fast", "/data-nas", "data-subPath", true}},
			"",
		},
		{
			"E2B's field",
			fields{"volumeMounts": []fields{{"name": "scratch", "path": "/data/"}}},
			[]m{{"scratch", "/data", "", false}},
			"",
		},
		{
			"the array wins over the keys, and both do not clash",
			with(volumeName, "scratch", mountPoint, "/a", volumeConfig, `[{"pvName":"pv-nas-fast","mountPath":"/a"}]`),
			[]m{{"pv-nas-fast", "/a", "", false}},
			`"used":"csi-volume-config","ignored":"csi-volume-name"`,
		},
		{
			"metadata and the field both count",
			fields{"metadata": fields{volumeConfig: `[{"pvName":"pv-nas-fast","mountPath":"/a","readOnly":null}]`}, "volumeMounts": []fields{{"name": "scratch", "path": "/b"}}},
			[]m{{"pv-nas-fast", "/a", "", false}, {"scratch", "/b", "", false}},
			"",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			id := w.make(c.body)
			var got []m
			for _, x := range w.pool.Started(warmpool.ID(id)).Mounts {
				got = append(got, m{x.Volume, x.Target, x.SubPath, x.ReadOnly})
			}
			require.Equal(t, c.want, got)
			if c.log != "" {
				require.Contains(t, w.log.String(), c.log)
			}
			var shown struct{ VolumeMounts []struct{ Name, Path string } }
			require.NoError(t, json.Unmarshal(w.as(aliceKey, http.MethodGet, "/sandboxes/"+id, nil).body, &shown))
			require.Len(t, shown.VolumeMounts, len(c.want))
			require.Equal(t, c.want[0].target, shown.VolumeMounts[0].Path)
		})
	}
}

func TestMountsAreListedWithTheirState(t *testing.T) {
	w := newWorld(t)
	id := w.make(config(`[{"pvName":"scratch","mountPath":"/a","subPath":"s","readOnly":true,"mountID":"mine"},{"pvName":"scratch","mountPath":"/b"}]`))
	golden(t, "mounts", w.as(aliceKey, http.MethodGet, "/sandboxes/"+id+"/mounts", nil))
}

func TestBodiesAreBounded(t *testing.T) {
	w := newWorld(t)
	big := `{"templateID":"base","metadata":{"a":"` + strings.Repeat("x", 1<<20) + `"}}`
	for name, body := range map[string]io.Reader{
		"with its length": strings.NewReader(big),
		"chunked":         io.MultiReader(strings.NewReader(big)),
	} {
		a := w.as(aliceKey, http.MethodPost, "/v2/sandboxes", body)
		require.Equal(t, 413, a.status, name)
		require.Contains(t, a.message(t), "1048576")
	}
	chunked := w.as(aliceKey, http.MethodPost, "/v2/sandboxes", io.MultiReader(strings.NewReader(`{"templateID":"base"}`)))
	require.Equal(t, 201, chunked.status, "JavaScript sends no Content-Length")
}

// A body eight times as large may cost eight times as much: what looked at each of its parts for each other one would cost 64 times as
// much. Counted is the processor's time of this process, to which a busy machine adds little.
func TestAHostileBodyCostsLittle(t *testing.T) {
	w := newWorld(t)
	for name, body := range map[string]func(n int) string{
		"wide": func(n int) string {
			var wide strings.Builder
			wide.WriteString(`{"templateID":"base"`)
			for i := range 90_000 / n {
				fmt.Fprintf(&wide, `,"%05x":1`, i)
			}
			return wide.String() + "}"
		},
		"deep": func(n int) string {
			depth := 9_000 / n
			return `{"templateID":"base","x":` + strings.Repeat(`{"a":`, depth) + `"` + strings.Repeat("y", 900_000/n) + `"` + strings.Repeat("}", depth+1)
		},
	} {
		cost := func(body string) (least time.Duration) {
			require.Less(t, len(body), 1<<20, name)
			for range 3 {
				before := busy(t)
				a := w.as(aliceKey, http.MethodPost, "/v2/sandboxes", body)
				spent := busy(t) - before
				require.Equal(t, 400, a.status, name)
				require.Less(t, len(a.body), 16<<10, name)
				if least == 0 || spent < least {
					least = spent
				}
			}
			return least
		}
		small, large := cost(body(8)), cost(body(1))
		t.Logf("%s: %v, eight times as large %v", name, small, large)
		require.Less(t, large, 24*max(small, time.Millisecond), name)
	}
}

// busy is the processor's time that this process has had.
func busy(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestBodiesMustBePlainJSON(t *testing.T) {
	w := newWorld(t)
	for header, value := range map[string]string{"Content-Type": "text/plain", "Content-Encoding": "gzip"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+"/v2/sandboxes", strings.NewReader(`{"templateID":"base"}`))
		require.NoError(t, err)
		req.Header.Set("X-Api-Key", aliceKey)
		req.Header.Set(header, value)
		a := w.do(req)
		require.Equal(t, 415, a.status)
		_ = a.message(t)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+"/v2/sandboxes", strings.NewReader(`{"templateID":"base"}`))
	require.NoError(t, err)
	req.Header.Set("X-Api-Key", aliceKey)
	req.Header.Set("Content-Encoding", "identity")
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	require.Equal(t, 201, w.do(req).status)
}

func TestAnIdempotencyKeyIsNotIgnored(t *testing.T) {
	w := newWorld(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+"/v2/sandboxes", strings.NewReader(`{"templateID":"base"}`))
	require.NoError(t, err)
	req.Header.Set("X-Api-Key", aliceKey)
	req.Header.Set("Idempotency-Key", "a-1")
	require.Equal(t, 501, w.do(req).status, "this backend remembers nothing")
	require.Zero(t, w.pool.Claimed())
}

func TestAnIdempotencyKeyMakesOneSandboxInBothFamilies(t *testing.T) {
	for _, path := range []string{"/sandboxes", "/v2/sandboxes"} {
		t.Run(path, func(t *testing.T) {
			w := rememberingWorld(t)
			send := func(key, body string, keys ...string) answer {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+path, strings.NewReader(body))
				require.NoError(t, err)
				req.Header.Set("X-Api-Key", key)
				for _, k := range keys {
					req.Header.Add("Idempotency-Key", k)
				}
				return w.do(req)
			}
			first := send(aliceKey, `{"templateID":"base"}`, "a-1")
			require.Equal(t, 201, first.status, "%s", first.body)
			again := send(aliceKey, ` {"templateID": "base"}`, "a-1")
			require.Equal(t, 201, again.status, "%s", again.body)
			require.JSONEq(t, string(first.body), string(again.body))
			require.Equal(t, 422, send(aliceKey, `{"templateID":"base","metadata":{"a":"b"}}`, "a-1").status)
			require.Equal(t, 400, send(aliceKey, `{"templateID":"base"}`, "a-1", "a-2").status)
			require.Equal(t, 400, send(aliceKey, `{"templateID":"base"}`, "").status)
			require.Equal(t, 1, w.pool.Claimed())
			other := send(bobKey, `{"templateID":"base"}`, "a-1")
			require.Equal(t, 201, other.status)
			require.NotEqual(t, string(first.body), string(other.body), "keys are their principal's own")
		})
	}
}
