//go:build linux

package attach_test

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
)

// lines are the box's mounts at a target.
func lines(b *box, target string) (n int) {
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", b.cmd.Process.Pid))
	require.NoError(b.t, err)
	for line := range strings.Lines(string(table)) {
		if strings.Fields(line)[4] == target {
			n++
		}
	}
	return n
}

func TestAVolumeTakesAnothersPlace(t *testing.T) {
	for name, old := range map[string]bool{"beneath it": false, "on a kernel before 6.5": true} {
		t.Run(name, func(t *testing.T) {
			if old {
				attach.WithoutBeneath(t)
			}
			b := newBox(t)
			n := b.namespace(attach.NewThreads(2))
			first := mustPut(t, n, volume(t), "/data", attach.CloneOptions{})
			b.must("write", "/data/f", "first")
			b.must("hold", "/data/f")
			second := volume(t)
			require.NoError(t, os.WriteFile(inVolume(second, "f"), []byte("second"), 0o600))
			tree, err := attach.Clone(second, attach.CloneOptions{})
			require.NoError(t, err)
			defer func() { _ = tree.Close() }()
			id, err := n.Replace(t.Context(), tree, "/data", first, attach.AttachOptions{})
			require.NoError(t, err)
			require.Equal(t, tree.ID(), id)
			require.Equal(t, "second", b.must("read", "/data/f"))
			require.Equal(t, 1, lines(b, "/data"), "the other one is gone, though a file of it is open")
			there, err := n.Live(t.Context(), "/data", first)
			require.NoError(t, err)
			require.False(t, there)
			b.must("release", "/data/f")
			require.NoError(t, tree.Close())
			require.NoError(t, n.Detach(t.Context(), "/data", id, false))
			require.Zero(t, lines(b, "/data"))
		})
	}
}

func TestAVolumeFollowsAnotherOneThatWasMovedAndTakesTheTargetOfOneThatIsGone(t *testing.T) {
	b := newBox(t)
	n := b.namespace(attach.NewThreads(2))
	first := mustPut(t, n, volume(t), "/a/data", attach.CloneOptions{})
	b.must("rename", "/a", "/b")
	tree, err := attach.Clone(volume(t), attach.CloneOptions{})
	require.NoError(t, err)
	second, err := n.Replace(t.Context(), tree, "/a/data", first, attach.AttachOptions{})
	require.NoError(t, err)
	require.NoError(t, tree.Close())
	require.Equal(t, []int{0, 1}, []int{lines(b, "/a/data"), lines(b, "/b/data")})

	require.NoError(t, n.Detach(t.Context(), "/a/data", second, false))
	tree, err = attach.Clone(volume(t), attach.CloneOptions{})
	require.NoError(t, err)
	defer func() { _ = tree.Close() }()
	_, err = n.Replace(t.Context(), tree, "/a/data", second, attach.AttachOptions{})
	require.NoError(t, err)
	require.Equal(t, 1, lines(b, "/a/data"))
}

func TestNobodySeesTheBareDirectoryWhileAVolumeIsReplaced(t *testing.T) {
	misses := func(t *testing.T) (misses int) {
		b := newBox(t)
		n := b.namespace(attach.NewThreads(2))
		id := mustPut(t, n, marked(t), "/data", attach.CloneOptions{})
		path := fmt.Sprintf("/proc/%d/root/data/mark", b.cmd.Process.Pid)
		var stop atomic.Bool
		count := make(chan int)
		go func() {
			bare := 0
			for !stop.Load() {
				if _, err := os.Stat(path); err != nil {
					bare++
				}
			}
			count <- bare
		}()
		for range 200 {
			tree, err := attach.Clone(marked(t), attach.CloneOptions{})
			require.NoError(t, err)
			id, err = n.Replace(t.Context(), tree, "/data", id, attach.AttachOptions{})
			require.NoError(t, err)
			require.NoError(t, tree.Close())
		}
		stop.Store(true)
		return <-count
	}
	require.Zero(t, misses(t))
	attach.WithoutBeneath(t)
	require.NotZero(t, misses(t), "the check sees a gap where there is one")
}

// marked is a volume with a file in it.
func marked(t *testing.T) *os.File {
	v := volume(t)
	require.NoError(t, os.WriteFile(inVolume(v, "mark"), nil, 0o600))
	return v
}
