package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/driver/oss"
	"github.com/sandgate-dev/sandgate/csiagent/driver/tmpfs"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

// served is memory with a client beside it, which takes credentials.
type served struct {
	tmpfs.Driver
	t      *testing.T
	client *exec.Cmd
	given  []string
	failed error
	of     []mount.Process // adopted
}

func (s *served) Mount(ctx context.Context, m mount.Mount, dir string) (mount.Source, error) {
	s.client = exec.Command("sleep", "600")
	require.NoError(s.t, s.client.Start())
	src, err := s.Driver.Mount(ctx, m, dir)
	src.Client = processOf(s.t, s.client.Process.Pid)
	return src, err
}

func (s *served) Unmount(ctx context.Context, dir string, _ mount.Process) error {
	_ = s.client.Process.Kill()
	_ = s.client.Wait()
	return s.Driver.Unmount(ctx, dir, mount.Process{})
}

func (s *served) Renew(_ context.Context, _ mount.Process, m mount.Mount) error {
	s.given = append(s.given, m.Secret["key"])
	return s.failed
}

func (s *served) Adopt(_ context.Context, p mount.Process) error {
	s.of = append(s.of, p)
	return nil
}

// processOf names a process so that the node knows it again.
func processOf(t *testing.T, pid int) mount.Process {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	start, err := strconv.ParseUint(strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))[19], 10, 64)
	require.NoError(t, err)
	return mount.Process{PID: pid, Start: start}
}

func TestTheSameMountWithOtherCredentialsGivesThemToItsClient(t *testing.T) {
	d := &served{t: t}
	w := newWorld(t, func(c *node.Config) { c.Drivers[mount.DriverTmpfs] = d })
	m := memory("/data")
	m.Secret = mount.Secret{"key": "1"}
	require.NoError(t, w.Publish(t.Context(), m))
	require.Empty(t, d.given, "it has them from the start")
	before := w.box.mounts(t, "/data")
	m.Secret = mount.Secret{"key": "2"}
	require.NoError(t, w.Publish(t.Context(), m))
	require.Equal(t, []string{"2"}, d.given)

	w.restart()
	require.NoError(t, w.Adopt(t.Context()))
	require.Len(t, d.of, 1, "a later agent is with the client again")
	require.Equal(t, d.client.Process.Pid, d.of[0].PID)
	m.Secret = mount.Secret{"key": "3"}
	d.failed = errors.New("no")
	require.ErrorIs(t, w.Publish(t.Context(), m), d.failed)
	require.Equal(t, []string{"2", "3"}, d.given)
	require.Equal(t, before, w.box.mounts(t, "/data"), "the mount is the one that it was")
}

// forgetful cannot go on with a client of an earlier process.
type forgetful struct{ *oss.Driver }

func (forgetful) Adopt(context.Context, mount.Process) error { return errors.New("no") }

func TestAReplacementThatIsFinishedLateHasAClientThatWorks(t *testing.T) {
	s := newStore(t)
	for title, forgets := range map[string]bool{"the one of the earlier agent": false, "another one, when that cannot be taken over": true} {
		t.Run(title, func(t *testing.T) {
			var away atomic.Bool
			w := newWorld(t, func(c *node.Config) {
				there := c.Target
				c.Target = func(ctx context.Context, name string) (node.Target, error) {
					if away.Load() {
						return nil, context.DeadlineExceeded
					}
					return there(ctx, name)
				}
				if forgets {
					c.Drivers[mount.DriverOSS] = forgetful{c.Drivers[mount.DriverOSS].(*oss.Driver)}
				}
			})
			require.Equal(t, "killed", runVictim(t, w, s, "heal:replaced"))
			away.Store(true) // the agent is back before the container
			require.NoError(t, w.Adopt(t.Context()))
			before := client(t, w.config.Dir)
			away.Store(false)
			require.NoError(t, w.Publish(t.Context(), s.volume("/data")))
			require.NoError(t, os.WriteFile(w.box.path("data", "g"), []byte("y"), 0o600))
			require.Equal(t, forgets, client(t, w.config.Dir) != before)
			got, err := os.ReadFile(filepath.Join(s.dir, "data", "g"))
			require.NoError(t, err)
			require.Equal(t, "y", string(got))
		})
	}
}
