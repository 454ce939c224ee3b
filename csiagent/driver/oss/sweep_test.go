package oss_test

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/driver/oss"
)

func TestSweepKillsWhoServesADirectoryAndNobodyElse(t *testing.T) {
	dir := t.TempDir()
	client, ended := waiting(t, 0, dir)
	_, otherEnded := waiting(t, 0, dir+"x")
	require.NoError(t, oss.New(oss.Config{}).Sweep(t.Context(), dir))
	select {
	case <-ended:
		require.Equal(t, syscall.SIGKILL, client.ProcessState.Sys().(syscall.WaitStatus).Signal())
	case <-time.After(5 * time.Second):
		t.Fatal("it lives")
	}
	select {
	case <-otherEnded:
		t.Fatal("another directory's client was killed")
	case <-time.After(50 * time.Millisecond):
	}
}

func TestSweepBelievesNoProcessOfAnotherMountNamespace(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: makes a mount namespace")
	}
	dir := t.TempDir()
	_, ended := waiting(t, syscall.CLONE_NEWNS, dir)
	require.NoError(t, oss.New(oss.Config{}).Sweep(t.Context(), dir))
	select {
	case <-ended:
		t.Fatal("a sandbox's process was killed")
	case <-time.After(50 * time.Millisecond):
	}
}

// waiting is a process with an argument that waits for the end of its input.
func waiting(t *testing.T, flags uintptr, arg string) (*exec.Cmd, <-chan struct{}) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "echo started; read x", arg)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = out.Read(make([]byte, 8)) // it runs, and its arguments are its own
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = in.Close()
		<-ended
	})
	return cmd, ended
}
