package nfs_test

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/driver/hostpath"
	"github.com/sandgate-dev/sandgate/csiagent/driver/nas"
	"github.com/sandgate-dev/sandgate/csiagent/driver/tmpfs"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

// What guest.sh has set up.
const (
	guest   = "/etc/sandgate-nfs-guest"
	server  = "10.9.0.1"
	share   = "/share"  // for root too
	squash  = "/squash" // for nobody, who may write
	private = "/only"   // for another address
	client  = "/client" // an NFS client of the tenant's own
	tenant  = "/sys/fs/cgroup/tenant"
)

// TestMain makes this test binary the processes that read and mount as well.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "probe":
			os.Exit(probe.Main(os.Args[2:]))
		case "nas":
			os.Exit(nas.Main())
		}
	}
	os.Exit(m.Run())
}

// world is an agent with NFS volumes and a sandbox's mount namespace.
type world struct {
	*node.Node
	t   *testing.T
	pid int
	box *exec.Cmd
}

const enclose = `mount -t tmpfs box "$1" && cd "$1" && mkdir old && pivot_root . old && echo ready && read x`

func newWorld(t *testing.T, fence *nas.Fence, changes ...func(*nas.Config)) *world {
	t.Helper()
	if _, err := os.Stat(guest); errors.Is(err, fs.ErrNotExist) {
		t.Skip("needs a kernel with NFS and a server: make e2e-nfs")
	}
	w := &world{t: t, box: exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c", enclose, "sh", t.TempDir())}
	in, err := w.box.StdinPipe()
	require.NoError(t, err)
	out, err := w.box.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, w.box.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	w.pid = w.box.Process.Pid
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(w.pid), "ns", "mnt"))
	require.NoError(t, err)
	namespace, err := attach.NewNamespace(f, attach.NewThreads(attach.DefaultThreads))
	require.NoError(t, err)
	self := func(command string) []string { return []string{"/proc/self/exe", command} }
	cfg := nas.Config{Command: self("nas"), Fence: fence, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, change := range changes {
		change(&cfg)
	}
	nfs := nas.New(cfg)
	require.NoError(t, os.MkdirAll(mount.PoolDir, 0o755))
	pool, err := hostpath.NewPool(mount.PoolDir, nfs.FenceMounted)
	require.NoError(t, err)
	w.Node, err = node.New(node.Config{
		Dir: t.TempDir(),
		Drivers: map[string]node.Driver{
			mount.DriverNAS: nfs, mount.DriverPool: pool, mount.DriverTmpfs: &tmpfs.Driver{},
		},
		Target: func(context.Context, string) (node.Target, error) { return namespace, nil },
		Policy: mount.DefaultPolicy(), Probe: &probe.Prober{Command: self("probe"), Timeout: 2 * time.Second}, PublishTimeout: 8 * time.Second,
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		w.heal()
		_ = w.UnpublishAll(context.WithoutCancel(t.Context()))
		w.Close()
		_ = pool.Close()
		_ = namespace.Close()
		_ = in.Close()
		_ = w.box.Process.Kill()
		_ = w.box.Wait()
	})
	return w
}

// path is where the test sees a path of the sandbox.
func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{"/proc", strconv.Itoa(w.pid), "root"}, parts...)...)
}

// volume is an export, mounted at /data.
func volume(version, path string, changes ...func(*mount.Mount)) mount.Mount {
	m := mount.Mount{
		Spec: mount.Spec{Volume: "nas", Target: "/data"}, Driver: mount.DriverNAS, VolumeHandle: "nas-handle",
		Attributes: map[string]string{"server": server, "path": path}, Options: []string{"vers=" + version}, Owner: mount.Owner{UID: 1000, GID: 1000},
	}
	for _, change := range changes {
		change(&m)
	}
	return m
}

// line cuts or mends the way between the server and the pod, at the server's end.
func (w *world) line(state string) {
	w.t.Helper()
	out, err := exec.Command("nsenter", "-t", "1", "-n", "ip", "link", "set", "srv0", state).CombinedOutput() //nolint:gosec // our own words
	require.NoError(w.t, err, string(out))
}

func (w *world) cut()  { w.line("down") }
func (w *world) heal() { w.line("up") }

// steal runs the tenant's own client in the pod's network namespace, in a container's cgroup.
func (w *world) steal() (string, error) {
	w.t.Helper()
	f, err := os.Open(tenant)
	require.NoError(w.t, err)
	defer func() { _ = f.Close() }()
	ctx, cancel := context.WithTimeout(w.t.Context(), 4*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, client, server, share)
	cmd.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	out, err := cmd.CombinedOutput()
	return string(out), err
}
