package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/sandgate-dev/sandgate/csiagent/driver/hostpath"
	"github.com/sandgate-dev/sandgate/csiagent/driver/tmpfs"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/local/process"
	"github.com/sandgate-dev/sandgate/warmpool/local/rootfs"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest"
)

const probeArgument = "probe-of-the-test"

// serveVariable names the state directory that this test program serves until it is killed.
const serveVariable = "SANDGATE_TEST_SERVE"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == probeArgument {
		os.Exit(probe.Main(os.Args[2:]))
	}
	if state := os.Getenv(serveVariable); state != "" {
		serve(state)
	}
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

// serve runs a backend until the process is killed.
func serve(state string) {
	b, err := New(realConfig(state, filepath.Join(filepath.Dir(state), "bin"), aReal("base", 2)))
	if err == nil {
		err = b.Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

var (
	buildOnce sync.Once
	built     string
	errBuild  error
)

// programs are envd and starter, built once.
func programs(t testing.TB) string {
	t.Helper()
	buildOnce.Do(func() {
		if built, errBuild = os.MkdirTemp("", "sandgate-local-bin-"); errBuild != nil {
			return
		}
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", built, "../../cmd/envd", "../../cmd/starter")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		if err != nil {
			errBuild = fmt.Errorf("%w: %s", err, out)
		}
	})
	require.NoError(t, errBuild)
	return built
}

func aReal(name string, replicas int32) v1alpha1.SandboxSet {
	s := aSet(name, replicas)
	s.Spec.Runtimes = []v1alpha1.Runtime{{Name: "csi"}}
	s.Spec.Template.Spec.Containers[0].Resources.Limits = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("1500m"), corev1.ResourceMemory: resource.MustParse("256Mi"),
	}
	return s
}

func realConfig(state, bin string, sets ...v1alpha1.SandboxSet) Config {
	self, _ := os.Executable()
	host, _ := hostpath.New(hostpath.Config{Prefixes: []string{os.TempDir()}})
	return Config{
		Pool:  Pool{Sets: func() []v1alpha1.SandboxSet { return sets }, Max: 12, Reader: warmpooltest.Volumes{}},
		State: state, Envd: filepath.Join(bin, "envd"), Starter: filepath.Join(bin, "starter"), EnvdVersion: "0.6.0",
		Drivers: map[string]node.Driver{mount.DriverTmpfs: &tmpfs.Driver{}, mount.DriverEphemeral: &tmpfs.Driver{Mode: tmpfs.ModeShared}, mount.DriverHostPath: host}, Policy: mount.DefaultPolicy(),
		Probe: &probe.Prober{Command: []string{self, probeArgument}},
		Log:   slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// worldOfContainers is a backend of the test: real containers in a state directory of their own.
type worldOfContainers struct {
	*Backend
	t     testing.TB
	state string
	cfg   Config
	stop  func()
}

func onThisMachine(t testing.TB, sets ...v1alpha1.SandboxSet) *worldOfContainers {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it runs containers")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip("needs runc")
	}
	home, err := os.MkdirTemp("", "sandgate-local-") // a test's own directory may have a comma in its name
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(home)) })
	r := &worldOfContainers{t: t, state: filepath.Join(home, "state"), stop: func() {}}
	r.cfg = realConfig(r.state, programs(t), sets...)
	t.Cleanup(func() { r.clean() })
	r.run()
	return r
}

func (r *worldOfContainers) run() {
	r.t.Helper()
	b, err := New(r.cfg)
	require.NoError(r.t, err)
	r.Backend = b
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			require.NoError(r.t, <-done)
		})
	}
}

// clean ends everything and looks that nothing is left.
func (r *worldOfContainers) clean() {
	r.t.Helper()
	r.stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.NoError(r.t, Clean(ctx, r.cfg))
	require.Empty(r.t, leftOf(r.t, r.state))
}

// leftOf finds whatever names a state directory: processes, mounts, cgroups, files.
func leftOf(t testing.TB, state string) (out []string) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	for lines := bufio.NewScanner(bytes.NewReader(table)); lines.Scan(); {
		if strings.Contains(lines.Text(), state) {
			out = append(out, "mount "+lines.Text())
		}
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/" + layout(state).group())
	require.NoError(t, err)
	one, err := filepath.Glob("/sys/fs/cgroup/" + layout(state).group())
	require.NoError(t, err)
	for _, g := range append(groups, one...) {
		out = append(out, "cgroup "+g)
	}
	tables, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	require.NoError(t, err)
	for _, path := range tables {
		text, err := os.ReadFile(path)
		if err == nil && bytes.Contains(text, []byte(state)) && !strings.Contains(path, "/proc/"+strconv.Itoa(os.Getpid())+"/") {
			out = append(out, "process "+path)
		}
	}
	if _, err := os.Stat(state); err == nil {
		out = append(out, "directory "+state)
	}
	return out
}

func (r *worldOfContainers) start(c warmpool.Claim, mounts ...mount.Mount) warmpool.Sandbox {
	r.t.Helper()
	for _, m := range mounts {
		c.Mounts = append(c.Mounts, m.Spec)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	s, err := r.Claim(ctx, c)
	require.NoError(r.t, err)
	s, err = r.Start(ctx, s.ID, warmpool.Start{Mounts: mounts, Env: map[string]string{"OWNER": "me"}})
	require.NoError(r.t, err)
	return s
}

func (r *worldOfContainers) pid(id warmpool.ID) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sandboxes[id].Process.PID
}

// sh runs a script inside as uid.
func (r *worldOfContainers) sh(id warmpool.ID, uid int, script string) (string, error) {
	r.t.Helper()
	cmd := exec.Command("runc", "--root", layout(r.state).runc(), "exec", "--user", fmt.Sprintf("%d:%d", uid, uid), string(id), "/bin/sh", "-c", script)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func scratch(target string) mount.Mount {
	spec := mount.Spec{Volume: "scratch", Target: target}
	spec.ID = spec.DerivedID()
	return mount.Mount{
		Spec: spec, Driver: mount.DriverTmpfs, VolumeHandle: "scratch", Attributes: map[string]string{"size": "8Mi"},
		AccessMode: mount.ReadWriteMany, Owner: mount.Owner{UID: 1000, GID: 1000},
	}
}

func TestContainersPassTheContract(t *testing.T) {
	warmpooltest.Run(t, func(t *testing.T) warmpooltest.Backend {
		return capped{onThisMachine(t, aReal("base", 2), furnished(aReal("furnished", 0), hostDir(t))).Backend}
	})
}

// capped tells the contract how many sandboxes its one template may have.
type capped struct{ *Backend }

func (c capped) Capacity(string) int { return c.cfg.Max }

func TestASandboxWithAVolumeFromClaimToRelease(t *testing.T) {
	r := onThisMachine(t, aReal("base", 1))
	s := r.start(claimOf("base"), scratch("/data/scratch"))
	require.Equal(t, warmpool.Running, s.State)
	require.Equal(t, warmpool.MountReady, s.Mounts[0].Phase)
	require.Equal(t, warmpool.Resources{CPUCount: 2, MemoryMB: 256}, s.Resources)
	out, err := r.sh(s.ID, 1000, "echo hello >/data/scratch/f && cat /data/scratch/f && stat -c %U /data/scratch")
	require.NoError(t, err, out)
	require.Equal(t, "hello\nuser", out)

	route, err := r.Route(t.Context(), s.ID)
	require.NoError(t, err)
	require.Equal(t, http.StatusUnauthorized, r.get(route, "", "/files?path=/etc/hostname"))
	require.Equal(t, http.StatusOK, r.get(route, s.Token.Reveal(), "/files?path=/etc/hostname"))

	out, err = r.sh(s.ID, 0, "umount /data/scratch 2>&1; echo; pidof s3fs; ls /.sandgate/run")
	require.NoError(t, err, out)
	require.Contains(t, out, handoverSocket)
	require.NoError(t, r.Release(t.Context(), s.ID))
	select {
	case <-route.Gone:
	case <-time.After(time.Second):
		t.Fatal("the route does not know that the sandbox is gone")
	}
	require.NoDirExists(t, layout(r.state).sandbox(s.ID))
	require.NoDirExists(t, layout(r.state).volumesOf(s.ID))
}

func (r *worldOfContainers) get(route warmpool.Route, token, path string) int {
	r.t.Helper()
	conn, err := route.Dial(r.t.Context(), envdPort)
	require.NoError(r.t, err)
	defer func() { _ = conn.Close() }()
	req, err := http.NewRequest(http.MethodGet, "http://sandbox"+path, http.NoBody)
	require.NoError(r.t, err)
	if token != "" {
		req.Header.Set(initialize.Header, token)
	}
	require.NoError(r.t, req.Write(conn))
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	require.NoError(r.t, err)
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	return res.StatusCode
}

func TestAVolumeThatCannotBeMountedEndsTheSandbox(t *testing.T) {
	r := onThisMachine(t, aReal("base", 0))
	bad := scratch("/data")
	bad.Attributes = map[string]string{"size": "nonsense"}
	c := claimOf("base")
	s, err := r.Claim(t.Context(), c)
	require.NoError(t, err)
	pid := r.pid(s.ID)
	_, err = r.Start(t.Context(), s.ID, warmpool.Start{Mounts: []mount.Mount{scratch("/good"), bad}})
	requireCode(t, warmpool.Invalid, err)
	_, err = process.Identify(pid)
	require.ErrorIs(t, err, process.ErrGone)
	require.NoDirExists(t, layout(r.state).sandbox(s.ID))
}

func TestASandboxIsTakenOverAfterTheProcessWasKilled(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it runs containers")
	}
	home := t.TempDir()
	state := filepath.Join(home, "state")
	require.NoError(t, os.Symlink(programs(t), filepath.Join(home, "bin")))
	r := &worldOfContainers{t: t, state: state, cfg: realConfig(state, filepath.Join(home, "bin"), aReal("base", 2))}
	self, err := os.Executable()
	require.NoError(t, err)
	server := exec.Command(self)
	server.Env = append(os.Environ(), serveVariable+"="+state)
	server.Stderr = os.Stderr
	require.NoError(t, server.Start())
	killed := false
	kill := func() {
		if !killed {
			_ = server.Process.Kill()
			_ = server.Wait()
			killed = true
		}
	}
	r.stop = func() {}
	t.Cleanup(func() { kill(); r.clean() })
	stock := func() (out []record) {
		entries, _ := os.ReadDir(layout(state).sandboxes())
		for _, e := range entries {
			if rec, err := loadRecord(layout(state).sandbox(warmpool.ID(e.Name())), warmpool.ID(e.Name())); err == nil && rec.State == warmpool.Available {
				out = append(out, rec)
			}
		}
		return out
	}
	require.Eventually(t, func() bool { return len(stock()) == 2 }, 20*time.Second, 20*time.Millisecond)
	_, err = New(r.cfg)
	require.ErrorContains(t, err, strconv.Itoa(server.Process.Pid), "two processes must not share a state")
	require.ErrorContains(t, Clean(t.Context(), r.cfg), strconv.Itoa(server.Process.Pid))
	before := stock()
	kill()

	r.run()
	// A claim that came before the stock has been taken over may be given one that was made for it.
	require.Eventually(t, func() bool {
		set, err := r.Template(t.Context(), "base")
		return err == nil && set.Ready == 2
	}, 20*time.Second, 20*time.Millisecond)
	s := r.start(claimOf("base"), scratch("/data"))
	require.Contains(t, []warmpool.ID{before[0].ID, before[1].ID}, s.ID, "stock of the killed process is used")
	out, err := r.sh(s.ID, 1000, "echo kept >/data/f")
	require.NoError(t, err, out)
	r.stop()
	r.run()
	got, err := r.Get(t.Context(), s.ID)
	require.NoError(t, err)
	require.Equal(t, s.Token.Reveal(), got.Token.Reveal())
	require.Equal(t, s.EndAt.UnixNano(), got.EndAt.UnixNano())
	require.Equal(t, warmpool.MountReady, got.Mounts[0].Phase)
	out, err = r.sh(s.ID, 1000, "cat /data/f")
	require.NoError(t, err, out)
	require.Equal(t, "kept", out)
	route, err := r.Route(t.Context(), s.ID)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, r.get(route, s.Token.Reveal(), "/files?path=/etc/hostname"))
}

// strangers walks a sandbox's root and returns what of the host it finds outside of the list.
func strangers(t *testing.T, pid int, skeleton *rootfs.Skeleton, canaries []string) (out []string) {
	t.Helper()
	root := os.DirFS(fmt.Sprintf("/proc/%d/root", pid)) // a link that a plain walk would not enter
	own := map[string]rootfs.Entry{}
	for _, e := range skeleton.Entries() {
		own[e.Path] = e
	}
	skip := map[string]bool{"usr": true, "proc": true, "sys": true, "dev": true, ".sandgate/bin": true, ".sandgate/run": true}
	files := 0
	err := fs.WalkDir(root, ".", func(rel string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		if skip[rel] {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		files++
		text, err := fs.ReadFile(root, rel)
		require.NoError(t, err)
		for _, c := range canaries {
			if bytes.Contains(text, []byte(c)) {
				out = append(out, "canary in "+rel)
			}
		}
		e, listed := own[rel]
		switch {
		case len(text) == 0 || !sameOnHost(rel, text):
		case listed && (e.Host && rootfs.Allowed(rel) || !e.Host):
		default:
			out = append(out, "host file "+rel)
		}
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, files, 20, "the walk saw next to nothing")
	return out
}

func sameOnHost(rel string, text []byte) bool {
	host, err := os.ReadFile("/" + rel)
	return err == nil && bytes.Equal(host, text)
}

func TestASandboxSeesNoHostFileOutsideTheList(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it runs containers")
	}
	canary := "canary-" + string(warmpool.NewID())
	for _, dir := range []string{"/etc", "/root", "/home", "/opt", "/var", "/srv", "/etc/ssl", "/etc/profile.d", "/var/lib"} {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		f, err := os.CreateTemp(dir, "sandgate-canary-")
		require.NoError(t, err)
		defer func() { _ = os.Remove(f.Name()) }()
		_, err = f.WriteString(canary)
		require.NoError(t, errors.Join(err, f.Close(), os.Chmod(f.Name(), 0o644)))
	}
	r := onThisMachine(t, aReal("base", 1))
	s := r.start(claimOf("base"))
	skeleton, err := rootfs.Load("/")
	require.NoError(t, err)
	require.Empty(t, strangers(t, r.pid(s.ID), skeleton, []string{canary}))

	// The walker itself must be able to fail.
	root := fmt.Sprintf("/proc/%d/root", r.pid(s.ID))
	require.NoError(t, os.WriteFile(filepath.Join(root, "opt/planted"), []byte(canary), 0o644))
	host, err := os.ReadFile("/etc/shadow")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/shadow"), host, 0o600))
	require.NoError(t, os.WriteFile("/etc/sandgate-planted", []byte("host"), 0o644))
	defer func() { _ = os.Remove("/etc/sandgate-planted") }()
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/sandgate-planted"), []byte("host"), 0o644))
	found := strangers(t, r.pid(s.ID), skeleton, []string{canary})
	require.Contains(t, found, "canary in opt/planted")
	require.Contains(t, found, "host file etc/sandgate-planted")
}

func TestALeftoverIsFound(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	state := filepath.Join(t.TempDir(), "state")
	require.NoError(t, os.MkdirAll(filepath.Join(state, "m"), 0o755))
	require.NoError(t, unix.Mount("tmpfs", filepath.Join(state, "m"), "tmpfs", 0, "size=1m"))
	defer func() { _ = unix.Unmount(filepath.Join(state, "m"), unix.MNT_DETACH) }()
	found := strings.Join(leftOf(t, state), "\n")
	require.Contains(t, found, "mount ")
	require.Contains(t, found, "directory ")
}

func TestAPoolWithPastaHasAUplinkAndCutsItWhenAsked(t *testing.T) {
	if _, err := exec.LookPath("pasta"); err != nil {
		t.Skip("needs pasta")
	}
	set := aReal("net", 1)
	set.Annotations[v1alpha1.AnnotationNetwork] = "pasta"
	r := onThisMachine(t, set)
	s := r.start(claimOf("net"))
	require.True(t, s.AllowInternet)
	out, err := r.sh(s.ID, 0, "cat /proc/net/dev | grep -c eth0; cat /etc/resolv.conf; ip route del unreachable 169.254.0.0/16 2>&1")
	require.Contains(t, out, "1\nnameserver 198.51.100.53", err)
	require.Contains(t, out, "not permitted")
	no := false
	c := claimOf("net")
	c.AllowInternet = &no
	cut := r.start(c)
	require.False(t, cut.AllowInternet)
	out, _ = r.sh(cut.ID, 0, "cat /proc/net/dev | grep -c eth0")
	require.Equal(t, "0", out)
	r.mu.Lock()
	uplink := r.sandboxes[s.ID].Uplink
	r.mu.Unlock()
	require.NoError(t, r.Release(t.Context(), s.ID))
	_, err = process.Identify(uplink.PID)
	require.ErrorIs(t, err, process.ErrGone)
}

func TestAnAddressThatThisMachineGetsIsOutOfReach(t *testing.T) {
	for _, program := range []string{"pasta", "ip"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("needs " + program)
		}
	}
	set := aReal("net", 1)
	set.Annotations[v1alpha1.AnnotationNetwork] = "pasta"
	r := onThisMachine(t, set)
	s := r.start(claimOf("net"))
	route := func(address string) string {
		out, _ := r.sh(s.ID, 0, "ip route get "+address)
		return out
	}
	get := func(address string) { // of a network for measurements, which is nobody's
		require.Contains(t, route(address), "dev eth0")
		require.NoError(t, exec.Command("ip", "address", "add", address+"/32", "dev", "lo").Run())
		t.Cleanup(func() { require.NoError(t, exec.Command("ip", "address", "delete", address+"/32", "dev", "lo").Run()) })
	}
	barred := func(address string) {
		require.Eventually(t, func() bool { return strings.Contains(route(address), "No route to host") }, 20*time.Second, 10*time.Millisecond)
	}
	get("198.18.254.7")
	barred("198.18.254.7")
	r.stop()
	get("198.18.254.8")
	r.run()
	barred("198.18.254.8")
}

func TestAKilledDaemonEndsItsSandbox(t *testing.T) {
	r := onThisMachine(t, aReal("base", 0))
	s := r.start(claimOf("base"))
	_, _ = r.sh(s.ID, 0, "kill -9 $(pidof envd)") // the shell may end with its sandbox
	require.Eventually(t, func() bool {
		_, err := r.Get(t.Context(), s.ID)
		return warmpool.CodeOf(err) == warmpool.NotFound
	}, 10*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		_, err := os.Stat(layout(r.state).sandbox(s.ID))
		return errors.Is(err, os.ErrNotExist)
	}, 10*time.Second, 10*time.Millisecond)
}
