//go:build linux

package node_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	_ "unsafe" // for a step inside of attach

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/driver/tmpfs"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

// pair is a world whose sandbox has a second container, "reader"; each may end and be another one.
type pair struct {
	*world

	mu  sync.Mutex
	now map[string]*attach.Namespace // nil: the container has ended
	box map[string]*box

	asked func() // called when the Node asks for a container; nil for nobody
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{now: map[string]*attach.Namespace{}, box: map[string]*box{}}
	p.world = newWorld(t, func(c *node.Config) {
		c.Drivers[mount.DriverEphemeral] = &tmpfs.Driver{Mode: tmpfs.ModeShared}
		c.Target = func(_ context.Context, name string) (node.Target, error) {
			if p.asked != nil {
				p.asked()
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if ns := p.now[name]; ns != nil {
				return ns, nil
			}
			return nil, attach.ErrGone
		}
	})
	p.begin("")
	p.begin("reader")
	return p
}

// begin starts a container, for the first time or again.
func (p *pair) begin(name string) {
	p.t.Helper()
	b := newBox(p.t)
	ns := b.namespace(p.t)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.box[name], p.now[name] = b, ns
}

// end ends a container, and its mounts with it.
func (p *pair) end(name string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	require.NoError(p.t, p.now[name].Close())
	p.box[name].end()
	p.now[name] = nil
}

func (p *pair) file(container, name string) string { return p.box[container].path("state", name) }

func (p *pair) read(container, name string) string {
	p.t.Helper()
	text, err := os.ReadFile(p.file(container, name))
	require.NoError(p.t, err)
	return string(text)
}

const mebi = 1 << 20

// state is the volume as a container has it.
func state(container string, readOnly bool) mount.Mount {
	return mount.Spec{
		Volume: "state", Target: "/state", Container: container, ReadOnly: readOnly, Ephemeral: mount.Ephemeral{Size: mebi, Inodes: 16},
	}.Resolve(mount.Owner{UID: 1000, GID: 1000})
}

func (p *pair) publish(ms ...mount.Mount) {
	p.t.Helper()
	var g errgroup.Group
	for _, m := range ms {
		g.Go(func() error { return p.Publish(p.t.Context(), m) })
	}
	require.NoError(p.t, g.Wait())
}

func TestContainersShareAnEphemeralVolumeAndItsLimits(t *testing.T) {
	for _, first := range []string{"the writer", "the reader", "both at once"} {
		t.Run(first+" first", func(t *testing.T) {
			p := newPair(t)
			writer, reader := state("", false), state("reader", true)
			switch first {
			case "the writer":
				p.publish(writer)
				p.publish(reader)
			case "the reader":
				p.publish(reader)
				p.publish(writer)
			default:
				p.publish(writer, reader)
			}
			require.NoError(t, os.WriteFile(p.file("", "heartbeat"), []byte("1"), 0o644))
			require.Equal(t, "1", p.read("reader", "heartbeat"))
			require.ErrorIs(t, os.WriteFile(p.file("reader", "heartbeat"), []byte("2"), 0o644), unix.EROFS)
			require.ErrorIs(t, os.WriteFile(p.file("", "big"), make([]byte, mebi), 0o644), unix.ENOSPC)
			require.NoError(t, os.Remove(p.file("", "big")))
			var err error
			for n := 0; err == nil && n < 32; n++ {
				err = os.WriteFile(p.file("", "f"+string(rune('a'+n))), nil, 0o644)
			}
			require.ErrorIs(t, err, unix.ENOSPC, "inodes are limited too")
			st, err := os.Stat(p.file("", ""))
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o777), st.Mode().Perm(), "whatever users the containers have")
		})
	}
}

func TestAContainerThatStartsAgainGetsTheSameEphemeralVolume(t *testing.T) {
	p := newPair(t)
	p.publish(state("", false), state("reader", true))
	require.NoError(t, os.WriteFile(p.file("", "heartbeat"), []byte("1"), 0o644))
	for _, name := range []string{"reader", "", "reader"} {
		p.end(name)
		p.begin(name)
		p.publish(state(name, name == "reader"))
		require.Equal(t, "1", p.read(name, "heartbeat"))
	}
	p.end("")
	p.end("reader")
	p.begin("reader")
	p.begin("")
	p.publish(state("reader", true), state("", false))
	require.Equal(t, "1", p.read("reader", "heartbeat"), "the agent holds it while nobody else does")
	require.NoError(t, os.WriteFile(p.file("", "heartbeat"), []byte("2"), 0o644))
	require.Equal(t, "2", p.read("reader", "heartbeat"), "it is one volume again")
}

func TestAnAgentThatStartsAgainTakesTheEphemeralVolumeFromItsContainers(t *testing.T) {
	p := newPair(t)
	p.publish(state("", false), state("reader", true))
	require.NoError(t, os.WriteFile(p.file("", "heartbeat"), []byte("1"), 0o644))
	p.restart()
	require.NoError(t, p.Adopt(t.Context()))
	p.publish(state("", false), state("reader", true)) // as the controller does
	require.Equal(t, "1", p.read("", "heartbeat"))

	p.end("")
	p.begin("")
	p.publish(state("", false))
	require.Equal(t, "1", p.read("", "heartbeat"), "from the reader, whose own mount refuses writes")
	require.NoError(t, os.WriteFile(p.file("", "heartbeat"), []byte("2"), 0o644))
	require.Equal(t, "2", p.read("reader", "heartbeat"))

	p.restart()
	require.NoError(t, p.Adopt(t.Context()))
	for _, l := range p.Mounts(t.Context()) { // to look at it is enough for the agent to hold it
		require.Equal(t, node.Mounted, l.Phase)
	}
	p.end("")
	p.end("reader")
	p.begin("reader")
	p.publish(state("reader", true))
	require.Equal(t, "2", p.read("reader", "heartbeat"))
}

func TestAnEphemeralVolumeThatIsLostIsNotQuietlyReplaced(t *testing.T) {
	p := newPair(t)
	p.publish(state("", false), state("reader", true))
	require.NoError(t, os.WriteFile(p.file("", "heartbeat"), []byte("1"), 0o644))
	p.Close() // with what it holds
	p.end("")
	p.end("reader")
	p.restart()
	require.NoError(t, p.Adopt(t.Context()))
	p.begin("")
	p.begin("reader")
	err := p.Publish(t.Context(), state("", false))
	require.ErrorIs(t, err, mount.ErrUnavailable)
	require.ErrorContains(t, err, "its content is lost")
	p.publish(state("reader", true), state("", false))
	require.NoFileExists(t, p.file("reader", "heartbeat"))
	require.NoError(t, os.WriteFile(p.file("", "heartbeat"), []byte("2"), 0o644))
	require.Equal(t, "2", p.read("reader", "heartbeat"))
}

//go:linkname openTree github.com/sandgate-dev/sandgate/csiagent/attach.openTree
var openTree func(dir int) (int, error)

// beforeDetachedClones makes openTree answer as kernels before 6.15 do: EINVAL, unless the calling thread's mount namespace has the mount;
// and with what full says where that is no error.
func beforeDetachedClones(t *testing.T, full func() error) {
	proc, err := unix.Open("/proc", unix.O_PATH|unix.O_CLOEXEC, 0) // a container has another one
	require.NoError(t, err)
	today := openTree
	t.Cleanup(func() { openTree = today; _ = unix.Close(proc) })
	openTree = func(dir int) (int, error) {
		var st unix.Statx_t
		if err := unix.Statx(dir, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
			return -1, err
		}
		fd, err := unix.Openat(proc, "thread-self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		table := os.NewFile(uintptr(fd), "mountinfo")
		defer func() { _ = table.Close() }()
		lines, err := io.ReadAll(table)
		if err != nil {
			return -1, err
		}
		if !strings.Contains("\n"+string(lines), fmt.Sprintf("\n%d ", st.Mnt_id)) {
			return -1, unix.EINVAL
		}
		if err := full(); err != nil {
			return -1, err
		}
		return today(dir)
	}
}

func TestAnAttachThatFailsCostsNoEphemeralVolumeItsContent(t *testing.T) {
	beforeDetachedClones(t, func() error { return nil })
	p := newPair(t)
	p.publish(state("", false))
	require.NoError(t, os.WriteFile(p.file("", "heartbeat"), []byte("1"), 0o644))
	for range 3 {
		p.end("")
		p.begin("")
		require.NoError(t, os.MkdirAll(p.file("", "full"), 0o755))
		require.ErrorIs(t, p.Publish(t.Context(), state("", false)), node.ErrConflict)
		require.ErrorIs(t, p.Publish(t.Context(), state("", false)), node.ErrConflict, "again")
		require.NoError(t, os.Remove(p.file("", "full")))
		p.publish(state("", false))
		require.Equal(t, "1", p.read("", "heartbeat"))
	}
	p.publish(state("reader", true))
	require.Equal(t, "1", p.read("reader", "heartbeat"))
}

func TestAnEphemeralVolumeThatTheAgentCannotHoldAnyMoreIsLookedForInTheContainers(t *testing.T) {
	var full atomic.Int32 // how many clones find no room
	beforeDetachedClones(t, func() error {
		if full.Add(-1) >= 0 {
			return unix.ENOSPC
		}
		return nil
	})
	p := newPair(t)
	p.publish(state("", false), state("reader", true))
	require.NoError(t, os.WriteFile(p.file("", "heartbeat"), []byte("1"), 0o644))
	p.end("")
	p.begin("")
	full.Store(1)
	p.publish(state("", false))
	require.Equal(t, "1", p.read("", "heartbeat"))

	p.end("")
	p.end("reader")
	p.begin("")
	full.Store(1)
	require.ErrorContains(t, p.Publish(t.Context(), state("", false)), "its content is lost", "nobody has it")
	p.publish(state("", false))
	require.NoFileExists(t, p.file("", "heartbeat"))
}

func TestAnEphemeralVolumeEndsWithItsLastMount(t *testing.T) {
	p := newPair(t)
	p.publish(state("", false), state("reader", true))
	require.NoError(t, os.WriteFile(p.file("", "heartbeat"), []byte("1"), 0o644))
	id := node.Identity{VolumeHandle: state("", false).VolumeHandle, Target: "/state"}
	require.NoError(t, p.Unpublish(t.Context(), id))
	require.Equal(t, "1", p.read("reader", "heartbeat"), "the other container keeps its mount")
	id.Container = "reader"
	require.NoError(t, p.UnpublishIdle(t.Context(), id))
	p.publish(state("", false))
	require.NoFileExists(t, p.file("", "heartbeat"), "another one of its name is another one")
}

func TestAnEphemeralVolumeStaysForAContainerThatIsGettingItAgain(t *testing.T) {
	p := newPair(t)
	p.publish(state("", false), state("reader", true))
	require.NoError(t, os.WriteFile(p.file("", "heartbeat"), []byte("1"), 0o644))
	p.end("")
	p.begin("")
	var once atomic.Bool
	p.asked = func() {
		if len(p.Known()) > 1 || once.Swap(true) {
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		id := node.Identity{VolumeHandle: state("", false).VolumeHandle, Container: "reader", Target: "/state"}
		_ = p.Unpublish(ctx, id) // while its container has no mount, the other one loses its, or has to wait
	}
	p.publish(state("", false))
	require.True(t, once.Load())
	require.Equal(t, "1", p.read("", "heartbeat"))
}

func TestAnEphemeralVolumeThatCouldNotBeAttachedWasNeverThere(t *testing.T) {
	p := newPair(t)
	require.NoError(t, os.MkdirAll(filepath.Join(p.box[""].path(), "full", "x"), 0o755))
	m := state("", false)
	m.Target = "/full"
	require.ErrorIs(t, p.Publish(t.Context(), m), node.ErrConflict)
	p.publish(state("", false))
	other := state("reader", false)
	other.Ephemeral.Size *= 2
	other.Attributes = map[string]string{"size": "2Mi"}
	var faults mount.Faults
	require.True(t, errors.As(p.Publish(t.Context(), other), &faults), "one volume has one size")
}

func TestAnEphemeralVolumeWhoseLossCouldNotBeToldIsNotMounted(t *testing.T) {
	p := newPair(t)
	sum := sha256.Sum256([]byte(state("", false).VolumeHandle))
	instead := filepath.Join(p.config.Dir, "journal", hex.EncodeToString(sum[:12])+".volume")
	require.NoError(t, os.Mkdir(instead, 0o700))
	require.ErrorContains(t, p.Publish(t.Context(), state("", false)), "its content is lost", "so it looks")
	require.ErrorIs(t, p.Publish(t.Context(), state("", false)), unix.EISDIR)
	require.Equal(t, []string{instead}, p.files())
	require.Empty(t, p.box[""].mounts(t, "/state"))
	require.Empty(t, p.Known())
	require.NoError(t, os.Remove(instead))
	p.publish(state("", false))
}

func TestAnotherDriversVolumeOfTheSameHandleIsNoEphemeralOne(t *testing.T) {
	p := newPair(t)
	p.publish(mount.Mount{
		Spec:   mount.Spec{Volume: "other", Target: "/other", ReadOnly: true},
		Driver: mount.DriverTmpfs, VolumeHandle: state("", false).VolumeHandle, Attributes: map[string]string{"size": "1Mi"},
	})
	p.publish(state("", false))
	require.NoError(t, os.WriteFile(p.file("", "heartbeat"), []byte("1"), 0o644))
	require.NoFileExists(t, p.box[""].path("other", "heartbeat"))
}
