package oss

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// client is a FUSE client that this process has started.
type client struct {
	process mount.Process
	log     *os.File
	done    chan struct{}    // closed when it has ended and was reaped
	state   *os.ProcessState // how, then
	oom     int              // how many processes beside it had been killed for their memory when it began
	redact  *strings.Replacer
}

// start starts a client in a session of its own, so that neither a signal to our group nor our end reaches it. Its output goes to
// a bounded file that lives as long as it does.
func start(l launch, keys credentials, held *os.File) (*client, error) {
	log, err := logFile()
	if err != nil {
		return nil, err
	}
	secret, err := secretFile(l.file)
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	defer func() { _ = secret.Close() }()
	files := []*os.File{secret}
	if held != nil {
		files = append(files, held)
	}
	cmd := &exec.Cmd{Path: l.args[0], Args: l.args, Env: l.environment(), Dir: "/", Stdout: log, Stderr: log, ExtraFiles: files}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start FUSE client: %w", err), log.Close())
	}
	c := &client{log: log, done: make(chan struct{}), redact: redactor(keys), oom: killedForMemory()}
	c.process.PID = cmd.Process.Pid
	// It cannot have been reaped yet, so the number is still its own.
	if c.process.Start, err = startTime(c.process.PID); err != nil {
		_ = cmd.Process.Kill()
	}
	go func() { // ends with the client
		_ = cmd.Wait()
		c.state = cmd.ProcessState
		close(c.done)
	}()
	return c, err
}

func redactor(keys credentials) *strings.Replacer {
	if keys == (credentials{}) {
		return strings.NewReplacer()
	}
	pairs := []string{keys.secret, "[redacted]", keys.id, "[redacted]"}
	if keys.token != "" {
		pairs = append(pairs, keys.token, "[redacted]")
	}
	return strings.NewReplacer(pairs...)
}

// output is what the client wrote, without its keys.
func (c *client) output() string { return c.redact.Replace(output(c.log)) }

// ended says whether the client ends within d.
func (c *client) ended(ctx context.Context, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	select {
	case <-c.done:
		return true
	case <-ctx.Done():
		return false
	}
}

// signaled says whether a signal has ended the client; it must have ended.
func (c *client) signaled() bool {
	st, ok := c.state.Sys().(syscall.WaitStatus)
	return ok && st.Signaled()
}

// parting says whether the client has aborted on its way out; it must have ended. s3fs 1.90 does so in a destructor, without a word, when a
// thread of its own is not through yet with the last request. Its file system has gone by then, and whoever closed a file has had its answer.
func (c *client) parting() bool {
	st, ok := c.state.Sys().(syscall.WaitStatus)
	return ok && st.Signaled() && st.Signal() == syscall.SIGABRT && lastWords(c.output()) == ""
}

// end waits until the process has ended, and kills it when ctx ends first; killed says that it had to. A process that is not p any
// more has ended.
func end(ctx context.Context, p mount.Process) (killed bool, err error) {
	fd, err := open(p)
	if err != nil || fd < 0 {
		return false, err
	}
	defer func() { _ = unix.Close(fd) }()
	for ctx.Err() == nil {
		if over, err := poll(fd, patience(ctx)); over || err != nil {
			return false, err
		}
	}
	if over, err := poll(fd, 0); over || err != nil {
		return false, err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return false, fmt.Errorf("kill FUSE client: %w", err)
	}
	over, err := poll(fd, killGrace)
	if err == nil && !over {
		err = errors.New("the FUSE client does not end, though it was killed")
	}
	return true, err
}

// killGrace is how long a killed process may take to be gone.
const killGrace = 5 * time.Second

// open returns a descriptor of p, or -1 when p has ended.
func open(p mount.Process) (int, error) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("find FUSE client: %w", err)
	}
	// The descriptor holds one process; its start time tells whether that is p.
	if !is(p) {
		_ = unix.Close(fd)
		return -1, nil
	}
	return fd, nil
}

// is says whether the process that has p's number now is p.
func is(p mount.Process) bool {
	now, err := startTime(p.PID)
	return err == nil && now == p.Start
}

// patience is how long one poll may take before ctx is looked at again.
func patience(ctx context.Context) time.Duration {
	const slice = 50 * time.Millisecond
	if at, ok := ctx.Deadline(); ok {
		return max(min(slice, time.Until(at)), 0)
	}
	return slice
}

func poll(pidfd int, d time.Duration) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(d.Milliseconds()))
	if errors.Is(err, unix.EINTR) {
		return false, nil
	}
	return n > 0, err
}

// startTime is field 22 of a process's stat: ticks since boot.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The name, field 2, may hold anything; the fields after it begin behind the last parenthesis.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("stat of process %d has %d fields", pid, len(fields))
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}
