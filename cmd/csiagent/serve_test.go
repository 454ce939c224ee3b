//go:build linux

package main

import (
	"bytes"
	"cmp"
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
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/utils/clock"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/csiagent/handover"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

const containerArgument = "act-as-container"

// TestMain makes this test binary the agent, its probes and the sandbox's container too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "serve", probeCommand, nasCommand:
			if err := command(os.Args[1:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		case containerArgument:
			go func() { _, _ = io.Copy(io.Discard, os.Stdin); os.Exit(0) }() // ends with the test
			handover.Keep(context.Background(), os.Args[2], clock.RealClock{}, func() {})
		}
	}
	os.Exit(m.Run())
}

// pod is what an agent finds in one: its directories, and a port.
type pod struct {
	t                                        *testing.T
	handover, state, identity, host, sandbox string
	addr                                     string
	authority                                *channel.Authority
	agent                                    *channel.Agent
	log                                      *logbook
	extra                                    []string // arguments of the agent
	program                                  string   // the agent; this test binary when empty

	process *exec.Cmd
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

func newPod(t *testing.T) *pod {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &pod{t: t, state: t.TempDir(), identity: t.TempDir(), host: t.TempDir(), addr: l.Addr().String(), log: &logbook{}}
	require.NoError(t, l.Close())
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	p.handover, p.sandbox = filepath.Join(dir, "h.sock"), filepath.Join(dir, "mnt") // the container's root is ours: a place of its own
	require.NoError(t, os.Mkdir(p.sandbox, 0o755))
	p.authority, err = channel.NewAuthority(time.Now())
	require.NoError(t, err)
	p.renew()
	client, err := p.authority.Client(channel.Gateway, time.Now())
	require.NoError(t, err)
	pool, err := channel.NewPool(channel.PoolConfig{
		Identity: func() (channel.Identity, error) { return client, nil }, Request: func(context.Context) string { return "req-1" },
		Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	p.agent = pool.Agent("uid-1", p.addr)
	return p
}

// renew writes a new identity as the kubelet does: the directory's files are links that are swapped.
func (p *pod) renew() {
	p.t.Helper()
	id, err := p.authority.Agent("uid-1", time.Now())
	require.NoError(p.t, err)
	for name, text := range map[string][]byte{"tls.crt": id.Cert, "tls.key": id.Key, "ca.crt": id.CA} {
		require.NoError(p.t, os.WriteFile(filepath.Join(p.identity, name), text, 0o600))
	}
}

// start starts the agent; program is the pod's when empty.
func (p *pod) start(program string) {
	p.t.Helper()
	program = cmp.Or(program, p.program, "/proc/self/exe")
	args := []string{"serve", "-addr", p.addr, "-handover", p.handover, "-state", p.state, "-identity", p.identity, "-allow-host-paths", p.host, "-loopback-endpoints"}
	p.process = exec.Command(program, append(args, p.extra...)...)
	p.process.Stderr = p.log
	p.process.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	require.NoError(p.t, p.process.Start())
	process := p.process
	p.t.Cleanup(func() { _ = process.Process.Kill(); _ = process.Wait() })
	require.Eventually(p.t, func() bool { _, err := p.agent.State(p.t.Context()); return err == nil }, 20*time.Second, 10*time.Millisecond, p.log)
}

// end ends the agent as the kubelet does, and says how it ended.
func (p *pod) end() error {
	_ = p.process.Process.Signal(syscall.SIGTERM)
	return p.process.Wait()
}

// box is a container that hands its namespace over as user 1000.
type box struct {
	pid  int
	stop func()
}

func (p *pod) container() box {
	p.t.Helper()
	cmd := exec.Command("/proc/self/exe", containerArgument, p.handover)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL, Credential: &syscall.Credential{Uid: 1000, Gid: 1000},
	}
	in, err := cmd.StdinPipe()
	require.NoError(p.t, err)
	runtime.LockOSThread() // the process dies with the thread that made it
	require.NoError(p.t, cmd.Start())
	stop := sync.OnceFunc(func() {
		_ = in.Close()
		_ = cmd.Wait()
		runtime.UnlockOSThread()
	})
	p.t.Cleanup(stop)
	return box{cmd.Process.Pid, stop}
}

// ready waits until the agent says that it has, or has not, a namespace.
func (p *pod) ready(want bool) {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		s, err := p.agent.State(p.t.Context())
		return err == nil && s.HandedOver == want
	}, 10*time.Second, 10*time.Millisecond, p.log)
}

// in is where the test sees what is mounted in a container.
func (p *pod) in(b box, parts ...string) string {
	return filepath.Join(append([]string{"/proc", strconv.Itoa(b.pid), "root", p.sandbox}, parts...)...)
}

func (p *pod) mount(name, driver string, attributes map[string]string) mount.Mount {
	return mount.Mount{
		Spec: mount.Spec{ID: name, Volume: name, Target: filepath.Join(p.sandbox, name)}, Driver: driver, VolumeHandle: name + "-handle",
		Attributes: attributes, Owner: mount.Owner{UID: 1000, GID: 1000},
	}
}

func (p *pod) memory(name string) mount.Mount {
	return p.mount(name, mount.DriverTmpfs, map[string]string{"size": "1Mi"})
}

// store is a real object store with the bucket "data".
func store(t *testing.T) (dir, address string) {
	t.Helper()
	program := os.Getenv("VERSITYGW")
	if _, err := exec.LookPath("s3fs"); err != nil || program == "" {
		t.Skip("needs s3fs in PATH and an object store: set VERSITYGW to the program")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	dir, address = t.TempDir(), l.Addr().String()
	require.NoError(t, l.Close())
	require.NoError(t, os.Mkdir(filepath.Join(dir, "data"), 0o755))
	cmd := exec.Command(program, "--quiet", "--port", address, "posix", dir)
	cmd.Env = []string{"ROOT_ACCESS_KEY=AKCANARY", "ROOT_SECRET_KEY=SKCANARY"}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)
	return dir, address
}

func (p *pod) bucket(name, address string) mount.Mount {
	m := p.mount(name, mount.DriverOSS, map[string]string{"bucket": "data", "url": "http://" + address})
	m.Secret = mount.Secret{"akId": "AKCANARY", "akSecret": "SKCANARY"}
	return m
}

// clients are the FUSE clients of this agent.
func (p *pod) clients() (out []int) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		line, err := os.ReadFile(path)
		if err == nil && bytes.Contains(line, []byte(p.state)) && !bytes.Contains(line, []byte("serve")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			out = append(out, pid)
		}
	}
	return out
}

func TestVolumesAppearInTheContainerAndSurviveTheirAgent(t *testing.T) {
	p := newPod(t)
	p.start("")
	begin := time.Now()
	err := p.agent.Publish(t.Context(), p.memory("mem"))
	require.ErrorIs(t, err, channel.ErrNotReady, "nobody has handed over yet")
	require.Less(t, time.Since(begin), time.Second)

	b := p.container()
	p.ready(true)
	host := p.mount("host", mount.DriverHostPath, map[string]string{"path": p.host})
	require.NoError(t, p.agent.Publish(t.Context(), p.memory("mem")))
	require.NoError(t, p.agent.Publish(t.Context(), host))
	require.NoError(t, os.WriteFile(p.in(b, "mem", "f"), []byte("x"), 0o600))
	require.NoError(t, os.WriteFile(p.in(b, "host", "f"), []byte("x"), 0o600))
	require.FileExists(t, filepath.Join(p.host, "f"))
	require.NoFileExists(t, filepath.Join(p.sandbox, "mem", "f"), "in no other namespace")
	require.Contains(t, p.log.String(), `"request":"req-1"`)

	require.NoError(t, p.process.Process.Kill())
	_ = p.process.Wait()
	require.FileExists(t, p.in(b, "mem", "f"), "an agent's end is not the volume's")
	p.renew()
	p.start("")
	// Before the starter is back the agent knows already what is there.
	require.Eventually(t, func() bool { return p.agent.Publish(t.Context(), p.memory("mem")) == nil }, 10*time.Second, 5*time.Millisecond)
	require.FileExists(t, p.in(b, "mem", "f"), "it is the same mount")
	health, err := p.agent.Health(t.Context(), node.Identity{VolumeHandle: "host-handle", Target: host.Target})
	require.NoError(t, err)
	require.Equal(t, node.Health{Verdict: node.VerdictLive}, health)
	require.NoError(t, p.agent.Unpublish(t.Context(), node.Identity{VolumeHandle: "mem-handle", Target: filepath.Join(p.sandbox, "mem")}))
	require.NoFileExists(t, p.in(b, "mem", "f"))
	require.NoError(t, p.end())
	require.FileExists(t, p.in(b, "host", "f"), "nor is it when it is told to end")
}

func TestAVolumeWhoseClientDiedWithItsAgentIsMountedAgain(t *testing.T) {
	p := newPod(t)
	dir, address := store(t)
	p.start("")
	b := p.container()
	p.ready(true)
	require.NoError(t, p.agent.Publish(t.Context(), p.bucket("oss", address)))
	require.NoError(t, os.WriteFile(p.in(b, "oss", "f"), []byte("x"), 0o600))
	require.FileExists(t, filepath.Join(dir, "data", "f"))

	require.NoError(t, p.process.Process.Kill())
	_ = p.process.Wait()
	for _, pid := range p.clients() { // they are in the agent's container
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	p.start("")
	p.ready(true)
	health, err := p.agent.Health(t.Context(), node.Identity{VolumeHandle: "oss-handle", Target: filepath.Join(p.sandbox, "oss")})
	require.NoError(t, err, "it is known")
	require.Contains(t, health.Message, "ended")
	_, err = os.ReadDir(p.in(b, "oss"))
	require.ErrorIs(t, err, syscall.ENOTCONN)
	require.NoError(t, p.agent.Publish(t.Context(), p.bucket("oss", address)))
	require.FileExists(t, p.in(b, "oss", "f"))
	require.NotContains(t, p.log.String(), "CANARY")
}

func TestAContainerThatStartsAgainGetsItsVolumesAgain(t *testing.T) {
	p := newPod(t)
	_, address := store(t)
	p.start("")
	for range 3 {
		b := p.container()
		p.ready(true)
		require.NoError(t, p.agent.Publish(t.Context(), p.memory("mem")))
		require.NoError(t, p.agent.Publish(t.Context(), p.bucket("oss", address)))
		require.NoError(t, os.WriteFile(p.in(b, "mem", "f"), nil, 0o600))
		require.NoError(t, os.WriteFile(p.in(b, "oss", "f"), nil, 0o600))
		b.stop()
		p.ready(false)
		require.ErrorIs(t, p.agent.Publish(t.Context(), p.memory("mem")), channel.ErrNotReady)
	}
	// Nobody comes back: there is nothing left to take away, and what was written was uploaded.
	require.NoError(t, p.agent.Unpublish(t.Context(), node.Identity{VolumeHandle: "mem-handle", Target: filepath.Join(p.sandbox, "mem")}))
	require.NoError(t, p.agent.Unpublish(t.Context(), node.Identity{VolumeHandle: "oss-handle", Target: filepath.Join(p.sandbox, "oss")}))
	require.Empty(t, p.clients())
}

func TestAnAgentThatEndsAfterItsContainerUploadsWhatIsLeft(t *testing.T) {
	p := newPod(t)
	dir, address := store(t)
	p.start("")
	b := p.container()
	p.ready(true)
	require.NoError(t, p.agent.Publish(t.Context(), p.bucket("oss", address)))
	// An open file is uploaded when it is closed, which is when its process ends.
	writer := exec.Command("nsenter", "-t", strconv.Itoa(b.pid), "-m", "sh", "-c", `exec 3>"$1" && head -c 3000000 /dev/zero >&3 && echo written && exec sleep 60`,
		"sh", filepath.Join(p.sandbox, "oss", "late"))
	out, err := writer.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, writer.Start())
	line := make([]byte, 8)
	_, err = io.ReadFull(out, line)
	require.NoError(t, err)
	b.stop()
	require.NoError(t, writer.Process.Kill())
	_ = writer.Wait()
	require.NoError(t, p.end())
	require.Empty(t, p.clients(), "it has waited for them")
	info, err := os.Stat(filepath.Join(dir, "data", "late"))
	require.NoError(t, err)
	require.EqualValues(t, 3000000, info.Size())
}

// A container that lives is not taken for one that has ended because its agent ends.
func TestAnUnmountThatIsUnderWayWhenTheAgentIsToldToEndIsDone(t *testing.T) {
	p := newPod(t)
	_, address := store(t)
	p.start("")
	b := p.container()
	p.ready(true)
	require.NoError(t, p.agent.Publish(t.Context(), p.bucket("oss", address)))
	mounted := func() bool {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", b.pid))
		require.NoError(t, err)
		return bytes.Contains(table, []byte(filepath.Join(p.sandbox, "oss")))
	}
	require.True(t, mounted())
	require.NoError(t, syscall.Kill(p.clients()[0], syscall.SIGSTOP)) // which keeps the unmount for a moment
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.agent.Unpublish(t.Context(), node.Identity{VolumeHandle: "oss-handle", Target: filepath.Join(p.sandbox, "oss")})
	}()
	require.Eventually(t, p.probes, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, p.end())
	<-done
	require.False(t, mounted())
	require.Empty(t, p.clients())
	left, err := os.ReadDir(filepath.Join(p.state, "journal"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// probes says whether the agent reads a volume at the moment.
func (p *pod) probes() bool {
	children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.process.Process.Pid))
	for _, path := range children {
		pids, _ := os.ReadFile(path)
		for _, pid := range strings.Fields(string(pids)) {
			if line, _ := os.ReadFile("/proc/" + pid + "/cmdline"); bytes.Contains(line, []byte("\x00"+probeCommand+"\x00")) {
				return true
			}
		}
	}
	return false
}

func TestARenewedIdentityIsServedByTheRunningAgent(t *testing.T) {
	p := newPod(t)
	p.start("")
	p.renew()
	serial := func() string {
		out, err := exec.Command("openssl", "s_client", "-connect", p.addr).Output() // prints the certificate; no input ends it
		if err != nil && len(out) == 0 {
			t.Skip("needs openssl")
		}
		return string(out[bytes.Index(out, []byte("-----BEGIN")):bytes.Index(out, []byte("-----END"))])
	}
	want, err := os.ReadFile(filepath.Join(p.identity, "tls.crt"))
	require.NoError(t, err)
	require.Contains(t, string(want), serial())
}

// The bound is house.md's, for the program as it is shipped.
func TestTheAgentIdlesInFifteenMegabytes(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program")
	}
	p := newPod(t)
	program := filepath.Join(t.TempDir(), "csiagent")
	build := exec.Command("go", "build", "-tags=grpcnotrace", "-trimpath", "-ldflags=-s -w", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	p.start(program)
	p.container()
	p.ready(true)
	t.Logf("before the first publish: %d KiB", rss(t, p.process.Process.Pid))
	for i := range 20 {
		name := "mem" + strconv.Itoa(i%10)
		require.NoError(t, p.agent.Publish(t.Context(), p.memory(name)))
		if i < 10 {
			require.NoError(t, p.agent.Unpublish(t.Context(), node.Identity{VolumeHandle: name + "-handle", Target: filepath.Join(p.sandbox, name)}))
		}
	}
	t.Logf("after 20 publishes: %d KiB", rss(t, p.process.Process.Pid))
	var now int
	require.Eventually(t, func() bool { now = rss(t, p.process.Process.Pid); return now <= 15<<10 }, restTime+10*time.Second, time.Second)
	t.Logf("idle: %d KiB", now)
}

func rss(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			require.NoError(t, err)
			return n
		}
	}
	require.Fail(t, "no VmRSS")
	return 0
}

func TestAnNFSVolumeIsMountedByAProcessOfTheAgent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	p := newPod(t)
	p.start("")
	p.container()
	p.ready(true)
	m := p.mount("nas", mount.DriverNAS, map[string]string{"server": "127.0.0.1"})
	m.Options = []string{fmt.Sprintf("port=%d", l.Addr().(*net.TCPAddr).Port)}
	if filesystems, err := os.ReadFile("/proc/filesystems"); err != nil || bytes.Contains(filesystems, []byte("\tnfs\n")) {
		t.Skip("this kernel has NFS: e2e/nfs mounts with it")
	}
	err = p.agent.Publish(t.Context(), m)
	require.ErrorContains(t, err, "modules nfs and nfsv3")
	m.Enforced = true
	require.ErrorContains(t, p.agent.Publish(t.Context(), m), "without a fence")
	m.Enforced, m.Attributes["accessPoint"] = false, "x"
	require.ErrorContains(t, p.agent.Publish(t.Context(), m), "accessPoint")
}
