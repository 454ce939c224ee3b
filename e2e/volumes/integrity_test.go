package volumes_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/e2e/world"
)

// data is where the volume is in a sandbox; sandboxes see the machine's fio, which knows by a seed what was written where.
const data = "/data"

// job is fio's: random writes of 4 to 64 KiB over all of a file, in which every byte tells where it belongs and which seed wrote it.
func job(seed int, more string) string {
	return fmt.Sprintf("fio --name=f --filename=%s/f --size=16m --rw=randwrite --bsrange=4k-64k --ioengine=psync --randseed=%d "+
		`--verify=pattern --verify_pattern='%%o"seed %d"' --verify_interval=4096 --verify_fatal=1 --output=/dev/null %s`, data, seed, seed, more)
}

func write(t *testing.T, w *world.World, sb world.Sandbox, seed int, more string) {
	t.Helper()
	_, err := w.Run(t.Context(), sb, job(seed, "--do_verify=0 "+more))
	require.NoError(t, err)
}

// verify says what fio finds wrong.
func verify(t *testing.T, w *world.World, sb world.Sandbox, seed int) error {
	t.Helper()
	_, err := w.Run(t.Context(), sb, job(seed, "--verify_only"))
	return err
}

// found is what fio says when it does.
const found = "bad pattern"

func TestWhatWasWrittenIsThereUnchangedAfterEveryRemount(t *testing.T) {
	if _, err := exec.LookPath("fio"); err != nil {
		t.Skip("needs fio in PATH: make unit installs it")
	}
	w := begin(t, "../testdata/faults/set.yaml")
	for name, c := range map[string]struct{ volume, stored string }{
		"bucket":    {bucket, filepath.Join(w.Store.Dir, "objects", world.Bucket)},
		"host path": {shared, w.Shared},
	} {
		t.Run(name, func(t *testing.T) {
			create := func() world.Sandbox {
				sb, err := w.Create(t.Context(), "pool", `,"timeout":300`)
				require.NoError(t, err)
				return sb
			}
			sb, seed := create(), 1
			m := mount(t, w, sb, c.volume, data, "kept")
			write(t, w, sb, seed, "") // no sync: an unmount writes back
			unmount(t, w, sb, m)
			mount(t, w, sb, c.volume, data, "kept")
			require.NoError(t, verify(t, w, sb, seed), "unmounted and mounted on a running sandbox")

			seed++
			write(t, w, sb, seed, "")
			require.NoError(t, w.Kill(t.Context(), sb))
			sb = create()
			m = mount(t, w, sb, c.volume, data, "kept")
			require.NoError(t, verify(t, w, sb, seed), "in another sandbox, after the first one's end")

			for range 2 {
				seed++
				write(t, w, sb, seed, "--end_fsync=1")
				for _, pid := range clients(t, w, sb) { // of a host path there are none
					require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
				}
				healed(t, w, sb, c.volume)
				require.NoError(t, verify(t, w, sb, seed), "after the death of its client")
			}
			require.ErrorContains(t, verify(t, w, sb, seed-1), found, "what was there before is not what was written last")

			// One bit, where the volume is kept: fio must see it.
			unmount(t, w, sb, m)
			spoil(t, filepath.Join(c.stored, "kept", "f"))
			mount(t, w, sb, c.volume, data, "kept")
			require.ErrorContains(t, verify(t, w, sb, seed), found, "a planted fault")
			require.NoError(t, w.Kill(t.Context(), sb))
		})
	}
}

// healed waits until a volume can be read again. Where nobody heals by himself, asking for the mount again does.
func healed(t *testing.T, w *world.World, sb world.Sandbox, volume string) {
	t.Helper()
	require.Eventually(t, func() bool {
		mount(t, w, sb, volume, data, "kept")
		_, err := w.Run(t.Context(), sb, "head -c 1 "+data+"/f")
		return err == nil
	}, 20*time.Second, 50*time.Millisecond)
}

func spoil(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	b := make([]byte, 1)
	at := int64(9<<20 + 2077)
	_, err = f.ReadAt(b, at)
	require.NoError(t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b, at)
	require.NoError(t, err)
}
