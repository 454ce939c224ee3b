package mount_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

func TestACallThatTheKernelHoldsIsLeftToItAndItsLateOutcomeIsTaken(t *testing.T) {
	var p mount.Patience
	release, late := make(chan struct{}), make(chan int, 1)
	held := func() (int, error) { <-release; return 7, nil }
	_, err := mount.Wait(t.Context(), &p, "a", time.Millisecond, held, func(n int) { late <- n })
	require.ErrorIs(t, err, mount.ErrHeld)
	require.NotErrorIs(t, err, mount.ErrNotBegun)

	quick := func(key string) (int, error) {
		return mount.Wait(t.Context(), &p, key, time.Minute, func() (int, error) { return 1, nil }, func(int) {})
	}
	_, err = quick("a")
	require.ErrorIs(t, err, mount.ErrNotBegun)
	require.ErrorIs(t, err, mount.ErrHeld)
	got, err := quick("b")
	require.NoError(t, err, "another one waits for nobody")
	require.Equal(t, 1, got)

	close(release)
	require.Equal(t, 7, <-late)
	require.Eventually(t, func() bool { _, err := quick("a"); return err == nil }, 30*time.Second, time.Millisecond)
}

func TestTheEndOfACallerEndsTheWaitAndALateFailureIsNobodys(t *testing.T) {
	var p mount.Patience
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	_, err := mount.Wait(ctx, &p, "a", time.Hour, func() (int, error) {
		cancel()
		<-release
		return 0, errors.New("the server is back and refuses")
	}, func(int) { panic("there is no outcome") })
	require.ErrorIs(t, err, mount.ErrHeld)
	close(release)
}

func TestOnlySoManyCallsAreHeld(t *testing.T) {
	var p mount.Patience
	release := make(chan struct{})
	defer close(release)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	begun := 0
	for i := range 1000 {
		_, err := mount.Wait(gone, &p, strconv.Itoa(i), time.Hour, func() (int, error) { <-release; return 0, nil }, func(int) {})
		if errors.Is(err, mount.ErrNotBegun) {
			break
		}
		begun++
	}
	require.Equal(t, 128, begun)
}
