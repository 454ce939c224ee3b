package node_test

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/node"
)

func TestProcessesThatWaitForAStoppedClientEndWhenItIsAbandoned(t *testing.T) {
	s, w := newStore(t), newWorld(t)
	require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
	reader := exec.CommandContext(t.Context(), "/bin/sh", "-c", "while :; do ls "+w.box.path("data")+"/; done") //nolint:gosec // our own words
	reader.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	require.NoError(t, reader.Start())
	<-time.After(100 * time.Millisecond)
	require.NoError(t, unix.Kill(client(t, w.config.Dir), unix.SIGSTOP))
	<-time.After(100 * time.Millisecond)
	require.NoError(t, unix.Kill(-reader.Process.Pid, unix.SIGKILL))

	w.restart() // another process has not started the client, and knows it all the same
	require.NoError(t, w.Abandon(t.Context()))
	_ = reader.Wait() // killed, as it should be
	require.Eventually(t, func() bool { return unix.Kill(-reader.Process.Pid, 0) == unix.ESRCH }, 20*time.Second, 10*time.Millisecond)
	require.Zero(t, client(t, w.config.Dir))
	require.NoError(t, w.Adopt(t.Context()))
	require.ErrorIs(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}), node.ErrDataLoss)
	left, err := filepath.Glob(filepath.Join(w.config.Dir, "journal", "*"))
	require.NoError(t, err)
	require.Empty(t, left)
}
