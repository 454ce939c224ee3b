package warmpooltest

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// another is a volume in memory beside that of memoryAt.
func another(id, target string) mount.Mount {
	m := memoryAt(target)
	m.ID, m.Volume, m.VolumeHandle = id, "another", "handle-of-another"
	return m
}

// comesAndGoes mounts and unmounts at once. Whichever is the last, what is told of the mount is so: a place that is told to be free takes
// another volume.
func comesAndGoes(ctx context.Context, t *testing.T, b Backend, tpl warmpool.Template) {
	s := take(ctx, t, b, claimOf(tpl.Name))
	m := memoryAt("/data")
	for range 8 {
		var (
			wg         sync.WaitGroup
			made, gone error
		)
		done := make(chan struct{})
		wg.Go(func() {
			defer close(done)
			_, _, made = b.Publish(ctx, s.ID, m)
		})
		wg.Go(func() {
			for gone = b.Unpublish(ctx, s.ID, m, true); warmpool.CodeOf(gone) == warmpool.NotFound; gone = b.Unpublish(ctx, s.ID, m, true) {
				select {
				case <-done:
					return
				default:
				}
			}
		})
		wg.Wait()
		got, err := b.Get(ctx, s.ID)
		require.NoError(t, err)
		switch there := slices.ContainsFunc(got.Mounts, func(st warmpool.MountStatus) bool { return st.ID == m.ID }); {
		case there:
			require.NoError(t, made)
			require.NoError(t, b.Unpublish(ctx, s.ID, m, true))
		case made == nil:
			require.NoError(t, gone, "it was there")
		default:
			requireCode(t, warmpool.Unavailable, made)
		}
		_, fresh, err := b.Publish(ctx, s.ID, another("another", "/data"))
		require.NoError(t, err, "the place is free")
		require.True(t, fresh)
		require.NoError(t, b.Unpublish(ctx, s.ID, another("another", "/data"), true))
	}
}

// idOfAnother unmounts by an ID that another mount has by now, as who has heard nothing of that.
func idOfAnother(ctx context.Context, t *testing.T, b Backend, tpl warmpool.Template) {
	s := take(ctx, t, b, claimOf(tpl.Name))
	earlier, later := memoryAt("/data"), another("x", "/other")
	earlier.ID = "x"
	_, _, err := b.Publish(ctx, s.ID, earlier)
	require.NoError(t, err)
	require.NoError(t, b.Unpublish(ctx, s.ID, earlier, false))
	_, _, err = b.Publish(ctx, s.ID, later)
	require.NoError(t, err)
	if err := b.Unpublish(ctx, s.ID, earlier, false); err != nil { // it needs the handle of the volume to be told
		requireCode(t, warmpool.Unavailable, err)
		requireMounts(ctx, t, b, s.ID, "x")
		require.NoError(t, b.Unpublish(ctx, s.ID, later, false))
	}
	requireMounts(ctx, t, b, s.ID)
	third := memoryAt("/other")
	_, made, err := b.Publish(ctx, s.ID, third)
	require.NoError(t, err, "the place is free")
	require.True(t, made)
}
