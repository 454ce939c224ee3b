package oss

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/mount/process"
)

// client is a FUSE client that this process has started.
type client struct {
	process mount.Process
	log     *os.File
	done    chan struct{}    // closed when it has ended and was reaped
	state   *os.ProcessState // how, then
	oom     int              // how many processes beside it had been killed for their memory when it began

	mu     sync.Mutex
	hidden []string // the keys that it has or had
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
	c := &client{log: log, done: make(chan struct{}), oom: killedForMemory()}
	c.hide(keys)
	// It cannot have been reaped yet, so the number is still its own.
	if c.process, err = process.Of(cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill()
	}
	go func() { // ends with the client
		_ = cmd.Wait()
		c.state = cmd.ProcessState
		close(c.done)
	}()
	return c, err
}

// mostHidden bounds what is remembered of credentials that followed each other; what they were in is bounded as well.
const mostHidden = 32

// hide keeps what the client gets, and may write about, out of output.
func (c *client) hide(keys credentials) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, text := range []string{keys.secret, keys.id, keys.token} {
		if text != "" && !slices.Contains(c.hidden, text) {
			c.hidden = append(c.hidden, text)
		}
	}
	c.hidden = c.hidden[max(0, len(c.hidden)-mostHidden):]
}

// output is what the client wrote, without its keys.
func (c *client) output() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := output(c.log)
	for _, key := range c.hidden {
		text = strings.ReplaceAll(text, key, "[redacted]")
	}
	return text
}

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
	f, err := process.Open(p)
	if errors.Is(err, process.ErrEnded) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	if process.Wait(ctx, f) {
		return false, nil
	}
	if err := process.Kill(f); err != nil {
		return false, fmt.Errorf("kill FUSE client: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killGrace)
	defer cancel()
	if !process.Wait(ctx, f) {
		return true, errors.New("the FUSE client does not end, though it was killed")
	}
	return true, nil
}

// killGrace is how long a killed process may take to be gone.
const killGrace = 5 * time.Second
