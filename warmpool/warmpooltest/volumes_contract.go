package warmpooltest

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
)

func poolVolumes(ctx context.Context, t *testing.T, b Backend, _ warmpool.Template) {
	all, err := b.Templates(ctx)
	require.NoError(t, err)
	i := slices.IndexFunc(all, func(t warmpool.Template) bool {
		return len(t.Volumes) == 2 && t.Volumes[0].AtClaim != t.Volumes[1].AtClaim
	})
	require.GreaterOrEqual(t, i, 0, "the contract needs a template with a volume of each time")
	early, late := all[i].Volumes[0], all[i].Volumes[1]
	if early.AtClaim {
		early, late = late, early
	}
	c, own := claimOf(all[i].Name), memoryAt("/data/own")
	c.Mounts = []mount.Spec{own.Spec}
	s, err := b.Claim(ctx, c)
	require.NoError(t, err)
	t.Cleanup(func() { release(b, s.ID) })
	require.Equal(t, all[i].Volumes, s.MadeFrom.Volumes, "what it was made with is told with it")
	phases := map[string]warmpool.MountPhase{}
	for _, m := range s.Mounts {
		phases[m.ID] = m.Phase
	}
	require.Equal(t, map[string]warmpool.MountPhase{
		early.ID: warmpool.MountReady, late.ID: warmpool.MountPending, own.ID: warmpool.MountPending,
	}, phases)

	s, err = b.Start(ctx, s.ID, warmpool.Start{Mounts: []mount.Mount{late.Mount, own}})
	require.NoError(t, err)
	requireMounts(ctx, t, b, s.ID, early.ID, late.ID, own.ID)
	for _, taken := range []string{early.Target, late.Target + "/below"} {
		_, _, err = b.Publish(ctx, s.ID, memoryAt(taken))
		requireCode(t, warmpool.Conflict, err)
	}
	require.NoError(t, b.Unpublish(ctx, s.ID, early.Mount, false))
	requireMounts(ctx, t, b, s.ID, late.ID, own.ID)
	_, made, err := b.Publish(ctx, s.ID, memoryAt(early.Target))
	require.NoError(t, err)
	require.True(t, made)
}

// PoolVolumes are two volumes for a template of the contract, as a backend of records has them.
func PoolVolumes() []warmpool.PoolVolume {
	return []warmpool.PoolVolume{
		{Mount: poolVolume("shared", "/shared")},
		{Mount: poolVolume("work", "/work"), AtClaim: true},
	}
}

func poolVolume(name, target string) mount.Mount {
	return mount.Mount{
		Spec: mount.Spec{ID: name, Kind: mount.KindPool, Volume: name, Target: target}, Driver: mount.DriverPool, VolumeHandle: "pool/" + name,
		Attributes: map[string]string{"path": mount.PoolDir + "/" + name}, AccessMode: mount.ReadWriteMany,
	}
}
