package leak_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/e2e/leak"
)

func TestNothingNewIsNoLeak(t *testing.T) {
	scope := leak.Scope{Marks: []string{t.TempDir()}, CgroupRoot: t.TempDir()}
	before, err := scope.Take()
	require.NoError(t, err)
	left, err := scope.Since(before)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestAProcessLeftInAMarkedDirectoryIsFound(t *testing.T) {
	scope, before := begin(t)
	start(t, exec.Command("sleep", "60"), scope.Marks[0])
	requireFound(t, scope, before, "sleep 60")
}

func TestACgroupLeftIsFound(t *testing.T) {
	scope, before := begin(t)
	require.NoError(t, os.MkdirAll(filepath.Join(scope.CgroupRoot, "pids", filepath.Base(scope.CgroupRoot)), 0o755))
	scope.Marks = []string{scope.CgroupRoot}
	requireFound(t, scope, before, "cgroup ")
}

func TestAMountLeftIsFound(t *testing.T) {
	root(t)
	scope, before := begin(t)
	dir := scope.Marks[0]
	require.NoError(t, syscall.Mount("planted", dir, "tmpfs", 0, "size=4k"))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, 0)) })
	requireFound(t, scope, before, "mount at "+dir)
}

func TestANetworkNamespaceLeftIsFound(t *testing.T) {
	root(t)
	scope, before := begin(t)
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	start(t, cmd, scope.Marks[0])
	requireFound(t, scope, before, "network namespace net:[")
}

func TestWaitEndsAsSoonAsNothingIsLeft(t *testing.T) {
	scope, before := begin(t)
	cmd := exec.Command("sleep", "0.3")
	cmd.Dir = scope.Marks[0]
	require.NoError(t, cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	left, err := scope.Wait(ctx, before)
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, <-done)
}

func begin(t *testing.T) (leak.Scope, leak.Snapshot) {
	t.Helper()
	scope := leak.Scope{Marks: []string{t.TempDir()}, CgroupRoot: t.TempDir()}
	before, err := scope.Take()
	require.NoError(t, err)
	return scope, before
}

func start(t *testing.T, cmd *exec.Cmd, dir string) {
	t.Helper()
	cmd.Dir = dir
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
	})
}

func requireFound(t *testing.T, scope leak.Scope, before leak.Snapshot, want string) {
	t.Helper()
	left, err := scope.Since(before)
	require.NoError(t, err)
	require.Contains(t, strings.Join(left, "\n"), want)
}

func root(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes a mount or a namespace")
	}
}
