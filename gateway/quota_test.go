package gateway_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest"
)

func data(n int) (out []mount.Spec) {
	for i := range n {
		out = append(out, mount.Spec{Volume: "scratch", Target: fmt.Sprint("/data/", i)})
	}
	return out
}

// enough is what a team that has all it may have is told.
func enough(t *testing.T, err error, words string) {
	t.Helper()
	require.Equal(t, warmpool.Exhausted, warmpool.CodeOf(err), err)
	require.ErrorContains(t, err, words)
	var e *warmpool.Error
	require.ErrorAs(t, err, &e)
	require.True(t, e.Final, "asking again by itself is of no use")
}

func TestATeamHasNoMoreMountsThanItMay(t *testing.T) {
	w := newLimited(t, 10, gateway.TeamLimits{Mounts: 3})
	first, err := w.Create(t.Context(), claim(data(2)...))
	require.NoError(t, err)
	_, err = w.Create(t.Context(), claim(data(2)...))
	enough(t, err, "3 mounts at a time and yours has 2")
	require.Equal(t, 1, w.pool.Claimed(), "nothing was claimed for it")
	_, err = w.Create(t.Context(), claim())
	require.NoError(t, err, "a sandbox without volumes is no matter of it")
	theirs := claim(data(2)...)
	theirs.Principal = bob
	_, err = w.Create(t.Context(), theirs)
	require.NoError(t, err, "another team has its own")

	more := mount.Spec{Volume: "other", Target: "/more"}
	_, made, err := w.Mount(t.Context(), alice, first.ID, claim(more).Mounts[0])
	require.NoError(t, err)
	require.True(t, made)
	_, made, err = w.Mount(t.Context(), alice, first.ID, claim(more).Mounts[0])
	require.NoError(t, err, "the same again is no more")
	require.False(t, made)
	_, _, err = w.Mount(t.Context(), alice, first.ID, claim(mount.Spec{Volume: "other", Target: "/most"}).Mounts[0])
	enough(t, err, "yours has 3")
	require.NoError(t, w.Kill(t.Context(), alice, first.ID))
	_, err = w.Create(t.Context(), claim(data(3)...))
	require.NoError(t, err, "what has ended makes room")
}

func TestATeamHasNoMoreSandboxesWithMountsThanItMay(t *testing.T) {
	w := newLimited(t, 10, gateway.TeamLimits{Mounted: 2})
	for range 2 {
		_, err := w.Create(t.Context(), claim(data(4)...))
		require.NoError(t, err)
	}
	_, err := w.Create(t.Context(), claim(data(1)...))
	enough(t, err, "2 sandboxes with volumes at a time and yours has 2")
	bare, err := w.Create(t.Context(), claim())
	require.NoError(t, err)
	_, _, err = w.Mount(t.Context(), alice, bare.ID, claim(data(1)...).Mounts[0])
	enough(t, err, "end one first")
}

func TestManyAtOnceDoNotExceedATeamsLimit(t *testing.T) {
	w := newLimited(t, 50, gateway.TeamLimits{Mounts: 7})
	var wg sync.WaitGroup
	var made atomic.Int32
	for range 50 {
		wg.Go(func() {
			switch _, err := w.Create(t.Context(), claim(data(1)...)); {
			case err == nil:
				made.Add(1)
			case warmpool.CodeOf(err) != warmpool.Exhausted:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 7, made.Load())
}

func TestMountsAtOnceIntoOneSandboxAreThoseOfOneSandbox(t *testing.T) {
	w := newLimited(t, 3, gateway.TeamLimits{Mounted: 1})
	bare, err := w.Create(t.Context(), claim())
	require.NoError(t, err)
	other, err := w.Create(t.Context(), claim())
	require.NoError(t, err)
	specs := data(3)
	mounted := func(sb warmpool.Sandbox, i int) error {
		_, _, err := w.Mount(t.Context(), alice, sb.ID, claim(specs[i]).Mounts[0])
		return err
	}
	begun, end := make(chan struct{}, 2), make(chan struct{})
	w.pool.OnPublish = func(context.Context, warmpool.ID, mount.Mount) error {
		begun <- struct{}{}
		<-end
		return nil
	}
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		wg.Go(func() { errs[i] = mounted(bare, i) })
	}
	for range errs { // each is admitted while the other one is under way
		select {
		case <-begun:
		case <-time.After(10 * time.Second):
			t.Fatal("one of them was not let in")
		}
	}
	enough(t, mounted(other, 2), "yours has 1")
	_, err = w.Create(t.Context(), claim(specs[2]))
	enough(t, err, "yours has 1")
	close(end)
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}

func TestAnImpossibleLimitIsRefused(t *testing.T) {
	for _, l := range []gateway.TeamLimits{{Mounts: -1}, {Mounted: -1}} {
		limits := gateway.DefaultLimits()
		limits.Team = l
		_, err := gateway.New(gateway.Config{Backend: warmpooltest.NewMemory(nil), Reader: warmpooltest.Volumes{}, Policy: mount.DefaultPolicy(), Limits: limits})
		require.ErrorContains(t, err, "negative")
	}
}
