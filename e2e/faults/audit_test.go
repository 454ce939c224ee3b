package faults_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

const planted = "i0000000000000000000"

// TestTheAuditFindsWhatIsPlanted makes each thing that a fault could leave, and wants it told.
func TestTheAuditFindsWhatIsPlanted(t *testing.T) {
	s := begin(t)
	sb, err := s.Create(t.Context(), "pool", three)
	require.NoError(t, err)
	s.settled(t)
	for name, plant := range map[string]struct {
		plant func(t *testing.T)
		want  string
	}{
		"a state directory": {func(t *testing.T) { plantDir(t, filepath.Join(s.State(), "sandboxes", planted)) }, planted + " has no readable record"},
		"a volume directory": {func(t *testing.T) { plantDir(t, filepath.Join(s.State(), "volumes", planted)) },
			planted + " is a directory of volumes, but not recorded"},
		"a cgroup": {func(t *testing.T) { plantDir(t, filepath.Join(pidsGroup(t), s.CgroupParent(), planted)) }, planted + " is a cgroup, but not recorded"},
		"a mount": {func(t *testing.T) {
			dir := filepath.Join(s.State(), "planted")
			require.NoError(t, os.Mkdir(dir, 0o700))
			require.NoError(t, syscall.Mount("planted", dir, "tmpfs", 0, "size=4k"))
			t.Cleanup(func() {
				require.NoError(t, syscall.Unmount(dir, 0))
				require.NoError(t, os.Remove(dir))
			})
		}, "the host has a mount at"},
		"a volume client": {func(t *testing.T) {
			shell, err := os.ReadFile("/bin/sh")
			require.NoError(t, err)
			program := filepath.Join(t.TempDir(), "s3fs")
			require.NoError(t, os.WriteFile(program, shell, 0o700))
			cmd := exec.CommandContext(t.Context(), program, "-c", "read x", s.State()) //nolint:gosec // our own words
			in, err := cmd.StdinPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			t.Cleanup(func() {
				require.NoError(t, in.Close())
				_ = cmd.Wait() // the end of its input is an error to it
			})
		}, "serves a volume of nobody"},
		"a record that says less": {func(t *testing.T) {
			file := filepath.Join(s.State(), "sandboxes", sb.ID, "state.json")
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(file, []byte(strings.Replace(string(text), `"running"`, `"claimed"`, 1)), 0o600))
			t.Cleanup(func() { require.NoError(t, os.WriteFile(file, text, 0o600)) })
		}, sb.ID + " is listed by the API, but not recorded as running"},
	} {
		t.Run(name, func(t *testing.T) {
			plant.plant(t)
			wrong, err := s.Audit(t.Context())
			require.NoError(t, err)
			require.Contains(t, strings.Join(wrong, "\n"), plant.want)
		})
	}
	s.settled(t)
}

func plantDir(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, os.Mkdir(dir, 0o700))
	t.Cleanup(func() { require.NoError(t, os.Remove(dir)) })
}

// pidsGroup is where sandboxes have a cgroup on every kind of machine.
func pidsGroup(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/sys/fs/cgroup/pids"); err == nil {
		return "/sys/fs/cgroup/pids"
	}
	return "/sys/fs/cgroup"
}
