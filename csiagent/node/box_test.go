package node_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/driver/hostpath"
	"github.com/sandgate-dev/sandgate/csiagent/driver/oss"
	"github.com/sandgate-dev/sandgate/csiagent/driver/tmpfs"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

// TestMain makes this test binary a probe process too, and the agent that is killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "probe":
			os.Exit(probe.Main(os.Args[2:]))
		case "clients":
			os.Exit(serveClients(os.Args[2]))
		case "shallow":
			os.Exit(serveShallow(os.Args[2]))
		case "stranger":
			fmt.Println(ask(os.Args[2]))
			os.Exit(0)
		case "victim":
			os.Exit(victim(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

// prober starts this test binary, without the second that the race detector sleeps at the end of a process.
func prober() *probe.Prober {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return &probe.Prober{Command: []string{"env", "GORACE=atexit_sleep_ms=0", self, "probe"}, Timeout: 2 * time.Second}
}

// box is a process with a mount namespace and a root of its own.
type box struct {
	pid int
	cmd *exec.Cmd
	in  io.Closer
}

const enclose = `mount -t tmpfs box "$1" && cd "$1" && mkdir old && pivot_root . old && echo ready && read x`

func newBox(t testing.TB) *box {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes mount namespaces")
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", enclose, "sh", t.TempDir())
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	// No Pdeathsig here or elsewhere: it fires when the thread that started a process ends, and threads that enter namespaces do.
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	b := &box{pid: cmd.Process.Pid, cmd: cmd, in: in}
	t.Cleanup(b.end)
	return b
}

// end ends the sandbox, and its mounts with it.
func (b *box) end() {
	_ = b.cmd.Process.Kill()
	_ = b.cmd.Wait()
}

// path is where the test sees a path of the box.
func (b *box) path(parts ...string) string {
	return filepath.Join(append([]string{"/proc", strconv.Itoa(b.pid), "root"}, parts...)...)
}

func (b *box) namespace(t testing.TB) *attach.Namespace {
	t.Helper()
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(b.pid), "ns", "mnt"))
	require.NoError(t, err)
	n, err := attach.NewNamespace(f, attach.NewThreads(attach.DefaultThreads))
	require.NoError(t, err)
	t.Cleanup(func() { _ = n.Close() })
	return n
}

// unmount does what a sandbox with the power to do it does.
func (b *box) unmount(t testing.TB, target string) {
	t.Helper()
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(b.pid), "ns", "mnt"))
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	done := make(chan error)
	work := func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNS); err != nil {
			return err
		}
		return unix.Unmount(target, unix.MNT_DETACH)
	}
	elsewhere(func() { done <- work() })
	require.NoError(t, <-done)
}

// elsewhere runs f on a thread that ends with it, which the first thread of a process cannot.
func elsewhere(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			elsewhere(f)
			return
		}
		f()
	}()
}

// mounts are the box's mounts at and below a target.
func (b *box) mounts(t testing.TB, target string) (out []string) {
	t.Helper()
	table, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(b.pid), "mountinfo"))
	require.NoError(t, err)
	for line := range strings.Lines(string(table)) {
		if at := strings.Fields(line)[4]; at == target || strings.HasPrefix(at, target+"/") {
			out = append(out, line)
		}
	}
	return out
}

// world is a node for one box, and what must be as before when the test ends.
type world struct {
	*node.Node
	t      testing.TB
	box    *box
	config node.Config
	host   string // the allowed host path
	log    *logbook
	died   chan node.Live
}

func newWorld(t testing.TB, changes ...func(*node.Config)) *world {
	t.Helper()
	w := &world{t: t, box: newBox(t), host: t.TempDir(), log: &logbook{}, died: make(chan node.Live, 16)}
	host, err := hostpath.New(hostpath.Config{Prefixes: []string{w.host}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, host.Close()) })
	logger := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	namespace := w.box.namespace(t)
	w.config = node.Config{
		Dir: t.TempDir(),
		Drivers: map[string]node.Driver{
			mount.DriverTmpfs: &tmpfs.Driver{}, mount.DriverHostPath: host, mount.DriverOSS: oss.New(oss.Config{Guard: mount.Guard{Loopback: true}, Logger: logger}),
		},
		Target: func(context.Context, string) (node.Target, error) { return namespace, nil },
		Policy: mount.DefaultPolicy(),
		Probe:  prober(),
		Died:   func(l node.Live) { w.died <- l },
		Logger: logger,
	}
	for _, change := range changes {
		change(&w.config)
	}
	w.Node, err = node.New(w.config)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = w.UnpublishAll(context.WithoutCancel(t.Context()))
		w.Close()
		require.Empty(t, w.files(), "nothing is left in the node's directory")
		require.Eventually(t, func() bool { return len(leftovers(t, w.config.Dir)) == 0 }, 20*time.Second, 5*time.Millisecond, leftovers(t, w.config.Dir))
		require.NotContains(t, w.log.String(), "CANARY")
	})
	return w
}

// restart is the same world under a new process: nothing but the directory is kept.
func (w *world) restart() {
	w.t.Helper()
	w.Close()
	var err error
	w.Node, err = node.New(w.config)
	require.NoError(w.t, err)
}

func (w *world) files() (out []string) {
	for _, pattern := range []string{"journal/*", "staging/*"} {
		found, _ := filepath.Glob(filepath.Join(w.config.Dir, pattern))
		out = append(out, found...)
	}
	return out
}

// leftovers are the mounts in this process's table on dir, and the processes that have it among their arguments.
func leftovers(t testing.TB, dir string) (out []string) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, dir) {
			out = append(out, line)
		}
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range lines {
		if line, err := os.ReadFile(p); err == nil && strings.Contains(string(line), dir) {
			out = append(out, string(line))
		}
	}
	return out
}

// logbook is a log that tests read while it is written.
type logbook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

const (
	storeKey    = "AKCANARY7f3d"
	storeSecret = "SKCANARY9b1e"
)

// store is a real object store; its buckets are directories of dir.
type store struct {
	dir, address, program string
	process               *exec.Cmd
}

func newStore(t testing.TB) *store {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	if _, err := exec.LookPath("s3fs"); err != nil {
		t.Skip("needs s3fs in PATH")
	}
	program := os.Getenv("VERSITYGW")
	if program == "" {
		var err error
		if program, err = exec.LookPath("versitygw"); err != nil {
			t.Skip("needs versitygw: set VERSITYGW to the program")
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &store{dir: t.TempDir(), address: listener.Addr().String()}
	require.NoError(t, listener.Close())
	require.NoError(t, os.Mkdir(filepath.Join(s.dir, "data"), 0o755))
	s.program = program
	s.start(t)
	t.Cleanup(func() { _ = s.process.Process.Kill(); _ = s.process.Wait() })
	return s
}

// start starts it, for the first time or again.
func (s *store) start(t testing.TB) {
	t.Helper()
	s.process = exec.Command(s.program, "--quiet", "--port", s.address, "posix", s.dir)
	s.process.Env = []string{"ROOT_ACCESS_KEY=" + storeKey, "ROOT_SECRET_KEY=" + storeSecret}
	require.NoError(t, s.process.Start())
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", s.address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, 10*time.Second, 10*time.Millisecond, "the object store listens")
}

func (s *store) volume(target string) mount.Mount {
	return mount.Mount{
		Spec: mount.Spec{Volume: "oss", Target: target}, Driver: mount.DriverOSS, VolumeHandle: "oss-handle",
		Attributes: map[string]string{"bucket": "data", "url": "http://" + s.address},
		Owner:      mount.Owner{UID: 1000, GID: 1000},
		Secret:     mount.Secret{"akId": storeKey, "akSecret": storeSecret},
	}
}

func memory(target string) mount.Mount {
	return mount.Mount{
		Spec: mount.Spec{Volume: "mem", Target: target}, Driver: mount.DriverTmpfs, VolumeHandle: "mem-handle",
		Attributes: map[string]string{"size": "1Mi"}, Owner: mount.Owner{UID: 1000, GID: 1000},
	}
}

func (w *world) hostPath(target string) mount.Mount {
	return mount.Mount{
		Spec: mount.Spec{Volume: "host", Target: target}, Driver: mount.DriverHostPath, VolumeHandle: "host-handle",
		Attributes: map[string]string{"path": w.host}, Owner: mount.Owner{UID: 1000, GID: 1000},
	}
}
