//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/handover"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

// called is a container of that name: it sees its own directory of the hand-over volume.
func (p *pod) called(name string) box {
	p.t.Helper()
	all := p.handover
	defer func() { p.handover = all }()
	p.handover = filepath.Join(filepath.Dir(all), name, filepath.Base(all))
	return p.container()
}

func (p *pod) shared(container string, readOnly bool) mount.Mount {
	return mount.Spec{
		Volume: "state", Target: filepath.Join(p.sandbox, "state"), Container: container, ReadOnly: readOnly, Ephemeral: mount.Ephemeral{Size: 1 << 20},
	}.Resolve(mount.Owner{})
}

func TestEveryContainerHandsOverAtASocketOfItsOwn(t *testing.T) {
	p := newPod(t)
	var err error
	p.sandbox, err = os.MkdirTemp("/var/tmp", "sandbox-") // below /tmp there are no ephemeral volumes
	require.NoError(t, err)
	require.NoError(t, os.Chmod(p.sandbox, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(p.sandbox) })
	p.extra = []string{"-containers=writer,reader"}
	p.start("")
	writer := p.called("writer")
	require.Never(t, func() bool { s, err := p.agent.State(t.Context()); return err != nil || s.HandedOver }, 300e6, 20e6, "one is missing")
	reader := p.called("reader")
	p.ready(true)
	require.ErrorIs(t, handover.Send(t.Context(), filepath.Join(filepath.Dir(p.handover), "reader", filepath.Base(p.handover))), handover.ErrRefused,
		"a second one while the first lives")

	host := p.mount("host", mount.DriverHostPath, map[string]string{"path": p.host})
	host.Container = "reader"
	require.NoError(t, p.agent.Publish(t.Context(), host))
	require.NoError(t, os.WriteFile(p.in(reader, "host", "f"), []byte("x"), 0o600))
	require.FileExists(t, filepath.Join(p.host, "f"))
	require.NoFileExists(t, p.in(writer, "host", "f"))
	host.Container = "third"
	require.Error(t, p.agent.Publish(t.Context(), host))

	require.NoError(t, p.agent.Publish(t.Context(), p.shared("", false)))
	require.NoError(t, p.agent.Publish(t.Context(), p.shared("reader", true)))
	require.NoError(t, os.WriteFile(p.in(writer, "state", "heartbeat"), []byte("1"), 0o644))
	require.FileExists(t, p.in(reader, "state", "heartbeat"))
	require.ErrorIs(t, os.WriteFile(p.in(reader, "state", "heartbeat"), nil, 0o644), syscall.EROFS)

	reader.stop()
	p.ready(false)
	id := node.Identity{VolumeHandle: p.shared("", false).VolumeHandle, Container: "reader", Target: p.shared("", false).Target}
	health, err := p.agent.Health(t.Context(), id)
	require.NoError(t, err)
	require.False(t, health.Works())
	id.Container = ""
	health, err = p.agent.Health(t.Context(), id)
	require.NoError(t, err)
	require.True(t, health.Works(), "the other one goes on")
	reader = p.called("reader")
	p.ready(true)
	require.NoError(t, p.agent.Publish(t.Context(), p.shared("reader", true)))
	require.FileExists(t, p.in(reader, "state", "heartbeat"), "the same volume")

	require.NoError(t, p.agent.Unpublish(t.Context(), id))
	require.NoFileExists(t, p.in(writer, "state", "heartbeat"))
	require.FileExists(t, p.in(reader, "state", "heartbeat"), "an unmount is one container's")
}

func TestANewAgentThatIsToldToEndTakesAContainerThatDoesNotComeBackForEnded(t *testing.T) {
	boxes, err := listen(filepath.Join(t.TempDir(), "handover.sock"), nil)
	require.NoError(t, err)
	boxes.adopted.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	group := make(chan error, 1)
	go func() { group <- boxes.serve(ctx) }()
	_, err = boxes.target(t.Context(), "")
	require.ErrorIs(t, err, context.DeadlineExceeded, "it may come yet")
	boxes.ending.Store(true)
	_, err = boxes.target(t.Context(), "")
	require.ErrorIs(t, err, attach.ErrGone)
	cancel()
	require.NoError(t, <-group)
}

func TestTheAgentLeavesTheNumberOfMountsToTheInstallation(t *testing.T) {
	p := newPod(t)
	p.start("")
	p.container()
	p.ready(true)
	for k := range mount.DefaultMaxMounts + 1 {
		require.NoError(t, p.agent.Publish(t.Context(), p.memory(fmt.Sprintf("m%d", k))))
	}
}
