package gateway_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest"
)

func spec(change ...func(*mount.Spec)) mount.Spec {
	s := mount.Spec{Volume: "scratch", Target: "/data"}
	for _, c := range change {
		c(&s)
	}
	parsed, err := mount.Parse(s)
	if err != nil {
		panic(err)
	}
	return parsed
}

func TestAVolumeIsMountedIntoALivingSandboxOnce(t *testing.T) {
	w := newWorld(t, 1)
	sb, err := w.Create(t.Context(), claim())
	require.NoError(t, err)
	st, made, err := w.Mount(t.Context(), alice, sb.ID, spec(func(s *mount.Spec) { s.SubPath = "of/${SANDBOX_ID}" }))
	require.NoError(t, err)
	require.True(t, made)
	require.Equal(t, "of/"+string(sb.ID), st.SubPath)
	require.Equal(t, warmpool.MountReady, st.Phase)
	for name, again := range map[string]mount.Spec{
		"as it was":                  spec(func(s *mount.Spec) { s.SubPath = "of/${SANDBOX_ID}" }),
		"with the container by name": spec(func(s *mount.Spec) { s.SubPath, s.Container = "of/${ACTOR_ID}", "main" }),
		"with its ID":                spec(func(s *mount.Spec) { s.SubPath, s.ID = "of/${SANDBOX_ID}", st.ID }),
		"with another permission":    spec(func(s *mount.Spec) { s.SubPath, s.AllowNonEmpty = "of/${SANDBOX_ID}", true }),
	} {
		got, made, err := w.Mount(t.Context(), alice, sb.ID, again)
		require.NoError(t, err, name)
		require.False(t, made, name)
		require.Equal(t, st, got, name)
	}
	named, made, err := w.Mount(t.Context(), alice, sb.ID, mount.Spec{ID: "mine", Volume: "other", Target: "/mine"})
	require.NoError(t, err)
	require.True(t, made)
	same, made, err := w.Mount(t.Context(), alice, sb.ID, spec(func(s *mount.Spec) { s.Volume, s.Target = "other", "/mine" }))
	require.NoError(t, err)
	require.False(t, made, "one that is not named goes by the name that is there")
	require.Equal(t, named.ID, same.ID)
}

func TestWhatALivingSandboxHasNoRoomFor(t *testing.T) {
	many := func(n int) (out []mount.Spec) {
		for i := range n {
			out = append(out, mount.Spec{Volume: "other", Target: fmt.Sprintf("/m/%d", i)})
		}
		return out
	}
	at := func(target string) func(*mount.Spec) { return func(s *mount.Spec) { s.Target = target } }
	for _, c := range []struct {
		name  string
		has   []mount.Spec
		asked mount.Spec
		code  warmpool.Code
		want  []mount.Field
	}{
		{"another volume at the path", many(1), spec(at("/m/0")), warmpool.Conflict, []mount.Field{mount.FieldTarget}},
		{"the same read-only", []mount.Spec{{Volume: "scratch", Target: "/data"}}, spec(func(s *mount.Spec) { s.ReadOnly = true }), warmpool.Conflict, []mount.Field{mount.FieldTarget}},
		{"the same under another ID", []mount.Spec{{Volume: "scratch", Target: "/data"}}, spec(func(s *mount.Spec) { s.ID = "x" }), warmpool.Conflict, []mount.Field{mount.FieldTarget}},
		{"another path under the ID", []mount.Spec{{ID: "x", Volume: "scratch", Target: "/x"}}, spec(func(s *mount.Spec) { s.ID = "x" }), warmpool.Conflict, []mount.Field{mount.FieldID}},
		{"a path inside", many(1), spec(at("/m/0/in")), warmpool.Conflict, []mount.Field{mount.FieldTarget}},
		{"a path around", many(2), spec(at("/m")), warmpool.Conflict, []mount.Field{mount.FieldTarget, mount.FieldTarget}},
		{"one too many", many(16), spec(), warmpool.Conflict, []mount.Field{mount.FieldVolume}},
		{"an unknown volume", nil, spec(func(s *mount.Spec) { s.Volume = "none" }), warmpool.Invalid, []mount.Field{mount.FieldVolume}},
		{"an unknown volume at a path that is taken", many(1), spec(at("/m/0"), func(s *mount.Spec) { s.Volume = "none" }), warmpool.Invalid, []mount.Field{mount.FieldVolume, mount.FieldTarget}},
		{"another container", nil, spec(func(s *mount.Spec) { s.Container = "side" }), warmpool.Invalid, []mount.Field{mount.FieldContainer}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1)
			sb, err := w.Create(t.Context(), claim(c.has...))
			require.NoError(t, err)
			w.pool.OnPublish = func(context.Context, warmpool.ID, mount.Mount) error { panic("published") }
			_, _, err = w.Mount(t.Context(), alice, sb.ID, c.asked)
			require.Equal(t, c.code, warmpool.CodeOf(err), "%v", err)
			var faults mount.Faults
			require.ErrorAs(t, err, &faults)
			var fields []mount.Field
			for _, f := range faults {
				fields = append(fields, f.Field)
			}
			require.Equal(t, c.want, fields, "%v", err)
			require.Equal(t, err.Error(), w.CheckMount(t.Context(), alice, sb.ID, c.asked).Error())
		})
	}
}

func TestMountsAreTheirTeamsAlone(t *testing.T) {
	w := newWorld(t, 1)
	sb, err := w.Create(t.Context(), claim(spec()))
	require.NoError(t, err)
	id := sb.Mounts[0].ID
	_, _, err = w.Mount(t.Context(), bob, sb.ID, spec(func(s *mount.Spec) { s.Target = "/x" }))
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))
	_, err = w.Unmount(t.Context(), bob, sb.ID, id, true)
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))
	_, _, err = w.Mounted(t.Context(), bob, sb.ID, id)
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))
	_, err = w.Unmount(t.Context(), alice, sb.ID, "none", true)
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))
	_, st, err := w.Mounted(t.Context(), alice, sb.ID, id)
	require.NoError(t, err)
	require.Equal(t, sb.Mounts[0], st)
	lossy, err := w.Unmount(t.Context(), alice, sb.ID, id, false)
	require.NoError(t, err)
	require.False(t, lossy)
}

func TestAVolumesFaultInALivingSandboxIsFinalAndTheSandboxGoesOn(t *testing.T) {
	w := newWorld(t, 1)
	sb, err := w.Create(t.Context(), claim())
	require.NoError(t, err)
	w.pool.OnPublish = func(context.Context, warmpool.ID, mount.Mount) error {
		return warmpool.Errorf(warmpool.Unavailable, "volume 'scratch' at /data could not be mounted: no answer")
	}
	_, _, err = w.Mount(t.Context(), alice, sb.ID, spec())
	var e *warmpool.Error
	require.ErrorAs(t, err, &e)
	require.True(t, e.Final)
	got, err := w.Get(t.Context(), alice, sb.ID)
	require.NoError(t, err)
	require.Empty(t, got.Mounts)
}

func TestAnUnmountTellsWhatMayBeLost(t *testing.T) {
	w := newWorld(t, 1)
	sb, err := w.Create(t.Context(), claim(spec()))
	require.NoError(t, err)
	id := sb.Mounts[0].ID
	w.pool.OnUnpublish = func(ctx context.Context, _ warmpool.ID, m mount.Mount, force bool) error {
		require.Equal(t, "scratch", m.VolumeHandle)
		require.NoError(t, ctx.Err(), "it outlives its caller")
		if !force {
			return warmpool.Errorf(warmpool.Conflict, "in use")
		}
		return fmt.Errorf("volume scratch: %w", warmpool.ErrDataLoss)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = w.Unmount(gone, alice, sb.ID, id, false)
	require.Equal(t, warmpool.Conflict, warmpool.CodeOf(err))
	lossy, err := w.Unmount(gone, alice, sb.ID, id, true)
	require.NoError(t, err)
	require.True(t, lossy)
	got, err := w.Get(t.Context(), alice, sb.ID)
	require.NoError(t, err)
	require.Empty(t, got.Mounts)
}

// behind is a backend over which somebody else changes mounts: it answers by what there was when heard was called.
type behind struct {
	*warmpooltest.Memory
	old     warmpool.Sandbox
	rereads int
}

func (b *behind) Get(ctx context.Context, id warmpool.ID) (warmpool.Sandbox, error) {
	if id == b.old.ID {
		return b.old, nil
	}
	return b.Memory.Get(ctx, id)
}

func (b *behind) Reread(ctx context.Context, id warmpool.ID) (warmpool.Sandbox, error) {
	b.rereads++
	return b.Memory.Get(ctx, id)
}

// heard makes what is there of a sandbox all that the backend knows of it.
func (b *behind) heard(t *testing.T, id warmpool.ID) {
	t.Helper()
	now, err := b.Memory.Get(t.Context(), id)
	require.NoError(t, err)
	b.old, b.rereads = now, 0
}

func TestWhatAnotherReplicaHasChangedIsLookedAtBeforeAMountIsRefused(t *testing.T) {
	w := newWorld(t, 1)
	pool := &behind{Memory: w.pool}
	s, err := gateway.New(gateway.Config{
		Backend: pool, Reader: warmpooltest.Volumes{"scratch": warmpooltest.TmpfsVolume("scratch"), "other": warmpooltest.TmpfsVolume("other")},
		Policy: mount.DefaultPolicy(), Limits: gateway.DefaultLimits(), Clock: w.clock, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	sb, err := w.Create(t.Context(), claim())
	require.NoError(t, err)
	pool.heard(t, sb.ID)

	st, _, err := w.Mount(t.Context(), alice, sb.ID, spec())
	require.NoError(t, err)
	_, err = s.Unmount(t.Context(), alice, sb.ID, st.ID, false)
	require.NoError(t, err, "it was mounted over the other one")
	require.Equal(t, 1, pool.rereads)
	_, err = s.Unmount(t.Context(), alice, sb.ID, st.ID, false)
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))

	st, _, err = w.Mount(t.Context(), alice, sb.ID, spec())
	require.NoError(t, err)
	pool.heard(t, sb.ID)
	_, err = w.Unmount(t.Context(), alice, sb.ID, st.ID, false)
	require.NoError(t, err)
	another := spec(func(s *mount.Spec) { s.Volume = "other" })
	require.NoError(t, s.CheckMount(t.Context(), alice, sb.ID, another))
	_, made, err := s.Mount(t.Context(), alice, sb.ID, another)
	require.NoError(t, err, "it was unmounted over the other one")
	require.True(t, made)

	pool.heard(t, sb.ID)
	_, _, err = s.Mount(t.Context(), alice, sb.ID, spec())
	require.Equal(t, warmpool.Conflict, warmpool.CodeOf(err), "there is none")
	require.Equal(t, 1, pool.rereads, "once")
	require.NoError(t, w.Kill(t.Context(), alice, sb.ID))
	_, _, err = s.Mount(t.Context(), alice, sb.ID, spec())
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err), "the sandbox is not there any more")
}
