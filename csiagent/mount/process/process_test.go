package process_test

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount/process"
)

func TestAProcessIsWaitedForUntilItEndsOrNobodyWantsToKnow(t *testing.T) {
	sleep := exec.Command("sleep", "60")
	require.NoError(t, sleep.Start())
	t.Cleanup(func() { _ = sleep.Process.Kill() })
	p, err := process.Of(sleep.Process.Pid)
	require.NoError(t, err)
	f, err := process.Open(p)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.False(t, process.Wait(ctx, f))
	ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	require.False(t, process.Wait(ctx, f))
	require.False(t, process.Over(f))
	require.NoError(t, process.Kill(f))
	require.True(t, process.Wait(t.Context(), f), "who has given up before can wait again")
	require.True(t, process.Over(f))
	require.Error(t, sleep.Wait(), "it was killed")
	require.NoError(t, process.Kill(f), "it has ended")
	require.False(t, process.Is(p))
	_, err = process.Of(p.PID)
	require.ErrorIs(t, err, process.ErrEnded)
	_, err = process.Open(p)
	require.ErrorIs(t, err, process.ErrEnded)
	require.NoError(t, f.Close())
	require.False(t, process.Wait(t.Context(), f), "nobody can tell any more")
}

func TestANumberThatAnotherProcessHasIsNotTheSame(t *testing.T) {
	sleep := exec.Command("sleep", "60")
	require.NoError(t, sleep.Start())
	t.Cleanup(func() { _ = sleep.Process.Kill(); _ = sleep.Wait() })
	p, err := process.Of(sleep.Process.Pid)
	require.NoError(t, err)
	require.True(t, process.Is(p))
	p.Start++
	_, err = process.Open(p)
	require.ErrorIs(t, err, process.ErrEnded)
}
