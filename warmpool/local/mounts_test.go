package local

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool"
)

func TestAMountIntoALivingSandboxThatFailsLeavesTheSandboxAsItWas(t *testing.T) {
	f := newFake()
	w := begin(t, f, nil, aSet("base", 0))
	s := w.take("base")
	f.do(func() {
		f.publish = func(context.Context, mount.Mount) error { return fmt.Errorf("%w: wrong key", mount.ErrDenied) }
	})
	_, _, err := w.Publish(t.Context(), s.ID, scratch("/data"))
	requireCode(t, warmpool.Denied, err)
	require.ErrorContains(t, err, "volume 'scratch' at /data could not be mounted")
	got, err := w.Get(t.Context(), s.ID)
	require.NoError(t, err)
	require.Equal(t, warmpool.Running, got.State)
	require.Empty(t, got.Mounts)
	require.Empty(t, f.records[s.ID].Mounts)
}

func TestAnUnmountThatMeetsAUserLeavesTheMount(t *testing.T) {
	f := newFake()
	w := begin(t, f, nil, aSet("base", 0))
	s := w.take("base")
	m := scratch("/data")
	_, _, err := w.Publish(t.Context(), s.ID, m)
	require.NoError(t, err)
	f.do(func() {
		f.unpublish = func(_ context.Context, target string, force bool) error {
			require.Equal(t, "/data", target)
			if force {
				return fmt.Errorf("%w: volume scratch", node.ErrDataLoss)
			}
			return node.ErrInUse
		}
	})
	err = w.Unpublish(t.Context(), s.ID, m, false)
	requireCode(t, warmpool.Conflict, err)
	require.ErrorContains(t, err, "in use")
	got, err := w.Get(t.Context(), s.ID)
	require.NoError(t, err)
	require.Equal(t, warmpool.MountReady, got.Mounts[0].Phase)
	require.ErrorIs(t, w.Unpublish(t.Context(), s.ID, m, true), warmpool.ErrDataLoss)
	got, err = w.Get(t.Context(), s.ID)
	require.NoError(t, err)
	require.Empty(t, got.Mounts, "what was lost is gone all the same")
}

func TestAMountThatIsAskedForWhileItIsTakenAwayIsThereOrNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := begin(t, f, nil, aSet("base", 0))
		s, m := w.take("base"), scratch("/data")
		var there atomic.Bool
		again := make(chan error, 1)
		f.publish = func(context.Context, mount.Mount) error {
			there.Store(true)
			return nil
		}
		_, _, err := w.Publish(t.Context(), s.ID, m)
		require.NoError(t, err)
		f.unpublish = func(context.Context, string, bool) error {
			there.Store(false)
			f.unpublish = nil
			go func() {
				_, _, err := w.Publish(t.Context(), s.ID, m)
				again <- err
			}()
			synctest.Wait() // it has come as far as it can
			return nil
		}
		require.NoError(t, w.Unpublish(t.Context(), s.ID, m, false))
		require.NoError(t, <-again)
		require.True(t, there.Load())
		got, err := w.Get(t.Context(), s.ID)
		require.NoError(t, err)
		require.Len(t, got.Mounts, 1)
		require.NoError(t, w.Unpublish(t.Context(), s.ID, m, false))
	})
}

func TestAReleaseDuringAMountCallsItOff(t *testing.T) {
	f := newFake()
	begun := make(chan struct{})
	f.publish = func(ctx context.Context, _ mount.Mount) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	}
	w := begin(t, f, nil, aSet("base", 0))
	s := w.take("base")
	done := make(chan error, 1)
	go func() {
		_, _, err := w.Publish(t.Context(), s.ID, scratch("/data"))
		done <- err
	}()
	<-begun
	got, err := w.Get(t.Context(), s.ID)
	require.NoError(t, err)
	require.Equal(t, warmpool.MountPending, got.Mounts[0].Phase, "until it is there")
	require.NoError(t, w.Release(t.Context(), s.ID))
	requireCode(t, warmpool.NotFound, <-done)
	require.Zero(t, f.left())
}

func TestWhatWasBeingMountedWhenTheProcessEndedIsTakenAway(t *testing.T) {
	f := newFake()
	w := begin(t, f, nil, aSet("base", 0))
	s := w.take("base")
	kept, half, asked := scratch("/kept"), scratch("/half"), scratch("/asked")
	_, _, err := w.Publish(t.Context(), s.ID, kept)
	require.NoError(t, err)
	w.stop()
	taken, resume := make(chan string, 2), make(chan struct{})
	f.do(func() {
		r := f.records[s.ID]
		r.Mounts = append(r.Mounts, half.Spec, asked.Spec)
		f.records[s.ID] = r
		f.unpublish = func(_ context.Context, target string, force bool) error {
			require.True(t, force)
			taken <- target
			<-resume
			return nil
		}
	})
	next := begin(t, f, nil, aSet("base", 0))
	require.Equal(t, "/half", <-taken)
	_, made, err := next.Publish(t.Context(), s.ID, asked)
	require.NoError(t, err)
	require.True(t, made)
	close(resume)
	got, err := next.Get(t.Context(), s.ID)
	require.NoError(t, err)
	next.stop()
	require.Empty(t, taken, "what is asked for anew meanwhile stays")
	require.Len(t, got.Mounts, 2)
	require.Equal(t, kept.ID, got.Mounts[0].ID)
	require.Equal(t, warmpool.MountReady, got.Mounts[0].Phase)
	require.Len(t, got.MadeFrom.Containers, 1)
	require.Equal(t, "main", got.MadeFrom.Containers[0].Name, "from the record")
}

func TestVolumesComeAndGoInALivingContainer(t *testing.T) {
	r := onThisMachine(t, aReal("base", 1))
	s := r.start(claimOf("base"))
	_, err := r.sh(s.ID, 0, "mkdir -p /srv/full && echo x >/srv/full/f")
	require.NoError(t, err)
	_, _, err = r.Publish(t.Context(), s.ID, scratch("/srv/full"))
	requireCode(t, warmpool.Conflict, err)
	require.ErrorContains(t, err, "not empty")
	full := scratch("/srv/full")
	full.AllowNonEmpty = true
	_, made, err := r.Publish(t.Context(), s.ID, full)
	require.NoError(t, err)
	require.True(t, made)
	out, err := r.sh(s.ID, 1000, "ls /srv/full; echo hello >/srv/full/g && cat /srv/full/g")
	require.NoError(t, err, out)
	require.Equal(t, "hello", out)

	m := scratch("/data")
	_, _, err = r.Publish(t.Context(), s.ID, m)
	require.NoError(t, err)
	out, err = r.sh(s.ID, 1000, "cd /data && (sleep 300 >/dev/null 2>&1 & echo $!)")
	require.NoError(t, err, out)
	err = r.Unpublish(t.Context(), s.ID, m, false)
	requireCode(t, warmpool.Conflict, err)
	out, err = r.sh(s.ID, 1000, "stat -fc %T /data")
	require.NoError(t, err, out)
	require.Equal(t, "tmpfs", out)
	begin := time.Now()
	require.NoError(t, r.Unpublish(t.Context(), s.ID, m, true), "memory has nothing to lose that is not lost anyway")
	require.Less(t, time.Since(begin), 5*time.Second)
	out, err = r.sh(s.ID, 1000, "touch /data/x 2>&1; stat -fc %T /data")
	require.NoError(t, err, out)
	require.Contains(t, out, "denied", "beneath a volume that is gone nothing is written")

	require.NoError(t, r.Unpublish(t.Context(), s.ID, full, false))
	out, err = r.sh(s.ID, 0, "cat /srv/full/f")
	require.NoError(t, err, out)
	require.Equal(t, "x", out, "what it hid is back")
}

func TestAMountIntoALivingSandboxOutlivesTheProcess(t *testing.T) {
	r := onThisMachine(t, aReal("base", 1))
	s := r.start(claimOf("base"))
	m := scratch("/data")
	_, _, err := r.Publish(t.Context(), s.ID, m)
	require.NoError(t, err)
	r.stop()
	r.run()
	got, err := r.Get(t.Context(), s.ID)
	require.NoError(t, err)
	require.Equal(t, warmpool.MountReady, got.Mounts[0].Phase)
	_, made, err := r.Publish(t.Context(), s.ID, m)
	require.NoError(t, err)
	require.False(t, made)
	require.NoError(t, r.Unpublish(t.Context(), s.ID, m, false))
}
