package nfs_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

// The figures are of an emulated machine: only what they are of each other says something.
func TestSixVolumesAtOnceAreThereTogether(t *testing.T) {
	each(t, both, func(t *testing.T, w *world, version, dir string) {
		took := map[int][]time.Duration{}
		var busy, ticks float64 // of the processors, while six are mounted
		for range 5 {
			for _, n := range []int{1, 6} {
				var group errgroup.Group
				usedBefore, allBefore := processors(t)
				began := time.Now()
				for i := range n {
					target := fmt.Sprintf("/data%d", i)
					m := volume(version, share+dir, sub(fmt.Sprint(i)), func(m *mount.Mount) { m.Volume, m.Target = fmt.Sprint("nas", i), target })
					group.Go(func() error { return w.Publish(t.Context(), m) })
				}
				require.NoError(t, group.Wait())
				took[n] = append(took[n], time.Since(began))
				if used, all := processors(t); n == 6 {
					busy, ticks = busy+used-usedBefore, ticks+all-allBefore
				}
				for i := range n {
					var st unix.Statfs_t
					require.NoError(t, unix.Statfs(w.path(fmt.Sprintf("data%d", i)), &st))
					require.EqualValues(t, unix.NFS_SUPER_MAGIC, st.Type)
				}
				require.NoError(t, w.UnpublishAll(t.Context()))
			}
		}
		one, six := slices.Sorted(slices.Values(took[1]))[2], slices.Sorted(slices.Values(took[6]))[2]
		t.Logf("medians of 5, in turns, under emulation on 2 processors: one volume %s, six at once %s: %.2f times one (aim <= 1.5), the processors busy for %.0f %% of it",
			one, six, float64(six)/float64(one), 100*busy/max(1, ticks))
	})
}

// processors are the ticks that all of them have worked, and that they have had.
func processors(t *testing.T) (used, all float64) {
	t.Helper()
	text, err := os.ReadFile("/proc/stat")
	require.NoError(t, err)
	first, _, _ := strings.Cut(string(text), "\n")
	for i, f := range strings.Fields(first)[1:] {
		n, err := strconv.ParseFloat(f, 64)
		require.NoError(t, err)
		all += n
		if i != 3 && i != 4 { // idle, and idle for a disk's sake
			used += n
		}
	}
	return used, all
}

// pattern is a file of blocks that tell where they belong: block i of seed s is written nowhere else.
type pattern struct {
	seed   uint64
	blocks int
}

const block = 4096

func (p pattern) block(i int) []byte {
	b := make([]byte, block)
	random := rand.NewPCG(p.seed, uint64(i))
	for at := 0; at < block; at += 8 {
		v := random.Uint64()
		for k := range 8 {
			b[at+k] = byte(v >> (8 * k))
		}
	}
	return b
}

// write writes the blocks in an order that looks like chance, over what is there.
func (p pattern) write(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for _, i := range rand.New(rand.NewPCG(p.seed, 0)).Perm(p.blocks) {
		if _, err := f.WriteAt(p.block(i), int64(i)*block); err != nil {
			return err
		}
	}
	return f.Close() // without a sync: what is written is the volume's to keep
}

// wrong are the blocks that are not what was written.
func (p pattern) wrong(path string) ([]int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []int
	for i := range p.blocks {
		if at := i * block; len(text) < at+block || !slices.Equal(text[at:at+block], p.block(i)) {
			out = append(out, i)
		}
	}
	if len(text) > p.blocks*block {
		out = append(out, p.blocks)
	}
	return out, nil
}

func TestWhatIsWrittenIsThereUnchangedAfterEveryRemount(t *testing.T) {
	each(t, both, func(t *testing.T, w *world, version, dir string) {
		m := volume(version, share+dir, sub("kept"))
		p := pattern{blocks: 512}
		for round := range 2 {
			p.seed = uint64(round)
			require.NoError(t, w.Publish(t.Context(), m))
			require.NoError(t, p.write(w.path("data", "f")))
			require.NoError(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}))
			require.NoError(t, w.Publish(t.Context(), m))
			wrong, err := p.wrong(w.path("data", "f"))
			require.NoError(t, err)
			require.Empty(t, wrong, "round %d", round)
			require.NoError(t, w.Unpublish(t.Context(), node.Identity{Target: "/data"}))
		}
		// One bit at the server, and it must be seen.
		file := share + dir + "/kept/f"
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		text[77*block+5] ^= 1
		require.NoError(t, os.WriteFile(file, text, 0o600))
		require.NoError(t, w.Publish(t.Context(), m))
		wrong, err := p.wrong(w.path("data", "f"))
		require.NoError(t, err)
		require.Equal(t, []int{77}, wrong)
	})
}
