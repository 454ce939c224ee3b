//go:build linux

package main_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/handover"
)

var starter string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "starter-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	starter = filepath.Join(dir, "starter")
	build := exec.Command("go", "build", "-o", starter, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(string(out))
	}
	return m.Run()
}

// command runs starter; nobody listens on its socket unless a test says so.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(starter, append([]string{"-socket", filepath.Join(t.TempDir(), "nobody")}, args...)...)
	runtime.LockOSThread() // the process dies with the thread that made it
	t.Cleanup(runtime.UnlockOSThread)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func status(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

func TestItEndsWithTheStatusOfItsProgram(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want int
	}{
		"which succeeds":         {[]string{"--", "true"}, 0},
		"which fails":            {[]string{"--", "sh", "-c", "exit 7"}, 7},
		"which is killed":        {[]string{"--", "sh", "-c", "kill -9 $$"}, 137},
		"which does not exist":   {[]string{"--", "/no/such/program"}, 127},
		"which cannot be run":    {[]string{"--", "/etc/passwd"}, 127},
		"which leaves orphans":   {[]string{"-init", "--", "sh", "-c", "(sleep 30 & echo $!) >pid; kill $(cat pid); exit 3"}, 3},
		"when no socket is said": {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := command(t, c.args...)
			if c.args == nil {
				cmd.Args, c.want = cmd.Args[:1], 2
			}
			cmd.Dir = t.TempDir()
			require.Equal(t, c.want, status(cmd.Run()))
		})
	}
}

func TestItPassesSignalsOn(t *testing.T) {
	cmd := command(t, "--", "sh", "-c", `trap "exit 5" TERM; echo ready; while :; do sleep 0.05; done`)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.Equal(t, 5, status(cmd.Wait()))
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes mount and PID namespaces")
	}
}

// inside runs starter as the first process of namespaces of its own.
func inside(t *testing.T, args ...string) *exec.Cmd {
	needsRoot(t)
	cmd := command(t, args...)
	cmd.Args = append([]string{"unshare", "-m", "-p", "-f", "--kill-child", "--mount-proc", starter}, cmd.Args[1:]...)
	path, err := exec.LookPath("unshare")
	require.NoError(t, err)
	cmd.Path = path
	return cmd
}

func TestAsFirstProcessItReapsOrphans(t *testing.T) {
	const script = `
		test "$(cat /proc/1/comm)" = starter || exit 8
		for i in 1 2 3 4 5; do (true &); done
		i=0
		while grep -q '^State:.Z' /proc/[0-9]*/status 2>/dev/null; do i=$((i+1)); test $i -gt 200 && exit 9; sleep 0.02; done
		exit 7`
	require.Equal(t, 7, status(inside(t, "--", "sh", "-c", script).Run()))
}

func TestWithoutAReaperOrphansWouldBeSeen(t *testing.T) {
	needsRoot(t)
	// sleep is a first process that reaps nothing.
	const script = `((true &); (true &); sleep 0.1; grep -l '^State:.Z' /proc/[0-9]*/status) & exec sleep 0.5`
	out, err := exec.Command("unshare", "-m", "-p", "-f", "--kill-child", "--mount-proc", "sh", "-c", script).Output()
	require.NoError(t, err)
	require.Contains(t, string(out), "/status")
}

func receiver(t *testing.T) (*handover.Receiver, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "handover.sock")
	r, err := handover.Listen(handover.Config{Socket: socket, Threads: attach.NewThreads(1)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- r.Serve(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-served) })
	return r, socket
}

// container runs starter as the first process of a container that hands over to the receiver returned.
func container(t *testing.T, program ...string) (*exec.Cmd, *handover.Receiver) {
	t.Helper()
	needsRoot(t)
	r, socket := receiver(t)
	cmd := command(t, program...)
	cmd.Args[2] = socket
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID
	return cmd, r
}

func TestItHandsItsContainerOver(t *testing.T) {
	for name, program := range map[string][]string{"alone": nil, "beside its program": {"--", "cat"}} {
		t.Run(name, func(t *testing.T) {
			cmd, r := container(t, program...)
			in, err := cmd.StdinPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			ns, err := r.Namespace(ctx)
			require.NoError(t, err)
			require.NoError(t, in.Close())
			if program == nil {
				require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
			}
			require.NoError(t, cmd.Wait())
			select {
			case <-ns.Gone():
			case <-ctx.Done():
				t.Fatal("the container has ended and its namespace is still held")
			}
		})
	}
}

func TestItsProgramInheritsNothing(t *testing.T) {
	direct, err := exec.Command("ls", "/proc/self/fd").Output()
	require.NoError(t, err)
	cmd, r := container(t, "--", "sh", "-c", "read go; exec ls /proc/self/fd")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	var out bytes.Buffer
	cmd.Stdout = &out
	require.NoError(t, cmd.Start())
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err = r.Namespace(ctx)
	require.NoError(t, err)
	_, err = io.WriteString(in, "\n")
	require.NoError(t, err)
	require.NoError(t, cmd.Wait())
	require.Equal(t, string(direct), out.String())
}

// detached runs starter as a postStart command would be run, and returns what it printed once its output has ended.
func detached(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, starter, args...).CombinedOutput()
	return string(out), err
}

func TestADetachedProgramRunsOnAndTheNextCommandIsBecome(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	out, err := detached(t, "-detach", "-exec=/bin/sh", "-arg=-c", "-arg=echo $$ >> "+file+"; exec sleep 300", "--", "sh", "-c", "echo next -- $0; exit 7", "x")
	var status *exec.ExitError
	require.ErrorAs(t, err, &status)
	require.Equal(t, 7, status.ExitCode(), "the status is the next command's: %s", out)
	require.Equal(t, "next -- x\n", out)

	first := lastPID(t, file, "")
	require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
	second := lastPID(t, file, strconv.Itoa(first))
	require.NotEqual(t, first, second, "a program that dies is started again")
	parent := parentOf(t, second)
	require.NoError(t, syscall.Kill(parent, syscall.SIGTERM))
	require.Eventually(t, func() bool { return syscall.Kill(second, 0) != nil }, 10*time.Second, 5*time.Millisecond, "the daemon takes its program along")
}

func TestDetachingWaitsForAnAnswerAndTellsWhyThereIsNone(t *testing.T) {
	out, err := detached(t, "-detach", "-exec=/no/such/program")
	require.Error(t, err)
	require.Contains(t, out, "did not begin")
	require.Contains(t, out, "no such file")
	out, err = detached(t, "-detach")
	require.Error(t, err)
	require.Contains(t, out, "usage:")
}

// lastPID waits for a line in file that is not other.
func lastPID(t *testing.T, file, other string) int {
	t.Helper()
	var pid int
	require.Eventually(t, func() bool {
		text, _ := os.ReadFile(file)
		lines := strings.Fields(string(text))
		if len(lines) == 0 || lines[len(lines)-1] == other {
			return false
		}
		pid, _ = strconv.Atoi(lines[len(lines)-1])
		return pid > 0
	}, 10*time.Second, 5*time.Millisecond)
	return pid
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	require.NoError(t, err)
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	parent, err := strconv.Atoi(fields[1])
	require.NoError(t, err)
	return parent
}
