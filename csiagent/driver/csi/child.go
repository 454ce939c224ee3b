package csi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Endpoint is what a plugin's arguments may hold: its socket as a URL, which is also in the environment as CSI_ENDPOINT.
const Endpoint = "$(CSI_ENDPOINT)"

// Child is a plugin's process. It is started again whenever it ends.
type Child struct {
	// Command is the program and its arguments.
	Command []string
	// Env is the whole environment but CSI_ENDPOINT.
	Env []string
	// Socket is where the plugin is to listen. Its directory is made, for root alone.
	Socket string
	// Hide takes secrets from what the plugin writes, which goes to Logger line by line. Both are required.
	Hide   *Hide
	Logger *slog.Logger
}

const (
	firstRest, lastRest = 100 * time.Millisecond, 10 * time.Second // before a plugin that ended is started again
	healthy             = 30 * time.Second                         // one that ran for so long begins anew
	endGrace            = 5 * time.Second
	maxLine             = 8 << 10
)

// Run runs the plugin until ctx ends, and then ends it.
func (c *Child) Run(ctx context.Context) error {
	// The kernel ends the plugin with the thread that started it: that must not be one which ends before this.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := os.MkdirAll(filepath.Dir(c.Socket), 0o700); err != nil {
		return fmt.Errorf("plugin: %w", err)
	}
	for rest := firstRest; ; rest = min(2*rest, lastRest) {
		began := time.Now()
		err := c.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > healthy {
			rest = firstRest
		}
		c.Logger.WarnContext(ctx, "plugin ended, started again", "program", c.Command[0], "error", err, "in", rest.String())
		if pause(ctx, rest) != nil {
			return nil
		}
	}
}

func (c *Child) once(ctx context.Context) error {
	if err := os.Remove(c.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	url := "unix://" + c.Socket
	args := make([]string, len(c.Command)-1)
	for i, a := range c.Command[1:] {
		args[i] = strings.ReplaceAll(a, Endpoint, url)
	}
	cmd := exec.CommandContext(ctx, c.Command[0], args...)
	cmd.Env = append(c.Env[:len(c.Env):len(c.Env)], "CSI_ENDPOINT="+url)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = endGrace // then it is killed
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	// A pipe of ours: its clients inherit it, and nobody waits for them.
	cmd.Stdout, cmd.Stderr = write, write
	err = cmd.Start()
	_ = write.Close()
	if err != nil {
		_ = read.Close()
		return err
	}
	go c.listen(read) // ends when the last process that has it does
	c.Logger.InfoContext(ctx, "plugin started", "program", c.Command[0], "pid", cmd.Process.Pid)
	return cmd.Wait()
}

// listen passes on what the plugin writes. A line that is too long, or that the plugin's end has cut, is left out: of a secret that is cut
// in it nobody could tell.
func (c *Child) listen(from io.ReadCloser) {
	defer func() { _ = from.Close() }()
	for lines := bufio.NewReaderSize(from, maxLine); ; {
		line, err := lines.ReadSlice('\n')
		switch {
		case err == nil:
			c.Logger.Info("plugin says", "line", c.Hide.Text(strings.TrimRight(string(line), "\r\n")))
		case len(line) > 0:
			c.Logger.Info("plugin says a line that has no end, or one after more than 8 KiB: it is left out")
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = lines.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}
