package gateway_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
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
