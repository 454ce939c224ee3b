package process

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

func sleeper(t *testing.T) mount.Process {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p, err := Identify(cmd.Process.Pid)
	require.NoError(t, err)
	return p
}

func TestGoneIsClosedWhenTheProcessIsKilled(t *testing.T) {
	w, err := Open(sleeper(t))
	require.NoError(t, err)
	defer w.Close()
	select {
	case <-w.Gone():
		t.Fatal("it lives")
	default:
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	require.NoError(t, w.Kill(ctx))
	<-w.Gone()
}

func TestAReusedPIDIsNotTakenForTheProcess(t *testing.T) {
	p := sleeper(t)
	p.Start++
	_, err := Open(p)
	require.ErrorIs(t, err, ErrGone)
}

func TestAnEndedProcessIsGone(t *testing.T) {
	cmd := exec.Command("true")
	require.NoError(t, cmd.Run())
	_, err := Open(mount.Process{PID: cmd.Process.Pid, Start: 1})
	require.ErrorIs(t, err, ErrGone)
}

func TestCloseOfALivingProcessReturnsAndLeavesIt(t *testing.T) {
	p := sleeper(t)
	w, err := Open(p)
	require.NoError(t, err)
	w.Close()
	w.Close()
	again, err := Identify(p.PID)
	require.NoError(t, err)
	require.Equal(t, p, again)
}

func TestAProcessThatNobodyHasWaitedForIsGone(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	require.NoError(t, cmd.Start())
	p, err := Identify(cmd.Process.Pid)
	require.NoError(t, err)
	w, err := Open(p)
	require.NoError(t, err)
	require.NoError(t, w.Kill(t.Context()))
	w.Close()
	_, err = Identify(p.PID)
	require.ErrorIs(t, err, ErrGone)
	_, err = Open(p)
	require.ErrorIs(t, err, ErrGone)
	require.Error(t, cmd.Wait(), "it was killed")
}
