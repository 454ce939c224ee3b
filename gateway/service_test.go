package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	testclock "k8s.io/utils/clock/testing"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest"
)

var (
	_ gateway.Backend = (*warmpooltest.Memory)(nil)
	_ gateway.Meter   = (*warmpooltest.Memory)(nil)
	_ gateway.Checker = (*warmpooltest.Memory)(nil)

	_ gateway.Rememberer = (*warmpooltest.Remembering)(nil)
)

type world struct {
	*gateway.Service
	pool  *warmpooltest.Memory
	clock *testclock.FakePassiveClock
}

var (
	alice = warmpool.Principal{Team: "alice", Key: "k1"}
	bob   = warmpool.Principal{Team: "bob", Key: "k2"}
)

func newWorld(t *testing.T, stock int) world { return newLimited(t, stock, gateway.TeamLimits{}) }

// newLimited is a world in which teams may not have everything.
func newLimited(t *testing.T, stock int, team gateway.TeamLimits) world {
	t.Helper()
	limits := gateway.DefaultLimits()
	limits.Team = team
	clk := testclock.NewFakePassiveClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	pool := warmpooltest.NewMemory(clk,
		warmpool.Template{Name: "base", Aliases: []string{"base-v1"}, Runtimes: []string{"csi"}, Containers: []warmpool.Container{{Name: "main", Mounts: true, Memory: 64 << 20}}, Desired: stock, EnvdVersion: "0.6.0"},
		warmpool.Template{Name: "plain", Aliases: []string{"plain-v1"}, Desired: stock, EnvdVersion: "0.6.0"})
	s, err := gateway.New(gateway.Config{
		Backend: pool, Reader: warmpooltest.Volumes{"scratch": warmpooltest.TmpfsVolume("scratch"), "other": warmpooltest.TmpfsVolume("other")},
		Policy: mount.DefaultPolicy(), Limits: limits, Clock: clk,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	require.NoError(t, err)
	return world{s, pool, clk}
}

func claim(specs ...mount.Spec) warmpool.Claim {
	c := warmpool.Claim{Template: "base", Principal: alice, Timeout: time.Minute}
	for _, s := range specs {
		parsed, err := mount.Parse(s)
		if err != nil {
			panic(err)
		}
		c.Mounts = append(c.Mounts, parsed)
	}
	return c
}

func TestCreateHandsOutARunningSandboxWithItsMounts(t *testing.T) {
	w := newWorld(t, 1)
	c := claim(mount.Spec{Volume: "scratch", Target: "/data", SubPath: "of/${SANDBOX_ID}"})
	c.Env = map[string]string{"A": "b"}
	sb, err := w.Create(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, warmpool.Running, sb.State)
	require.Equal(t, w.clock.Now().Add(time.Minute), sb.EndAt)
	start := w.pool.Started(sb.ID)
	require.Equal(t, c.Env, start.Env)
	require.Len(t, start.Mounts, 1)
	require.Equal(t, mount.DriverTmpfs, start.Mounts[0].Driver)
	require.Equal(t, "of/"+string(sb.ID), start.Mounts[0].SubPath)
}

func TestWhatCanBeRefusedIsRefusedBeforeAnythingIsClaimed(t *testing.T) {
	cases := []struct {
		name  string
		claim warmpool.Claim
		code  warmpool.Code
		want  []mount.Fault // Reason is not compared
	}{
		{"an unknown template", warmpool.Claim{Template: "none", Timeout: time.Minute}, warmpool.NotFound, nil},
		{"no timeout", warmpool.Claim{Template: "base"}, warmpool.Invalid, nil},
		{"a timeout that is too long", warmpool.Claim{Template: "base", Timeout: 25 * time.Hour}, warmpool.Invalid, nil},
		{"an unknown volume", claim(mount.Spec{Volume: "none", Target: "/data"}), warmpool.Invalid, []mount.Fault{{Index: 0, Field: mount.FieldVolume}}},
		{
			"unknown volumes and clashing targets together",
			claim(mount.Spec{Volume: "none", Target: "/data"}, mount.Spec{Volume: "scratch", Target: "/ok"}, mount.Spec{Volume: "other", Target: "/data/below"}),
			warmpool.Invalid,
			[]mount.Fault{{Index: 0, Field: mount.FieldVolume}, {Index: 2, Field: mount.FieldTarget}},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.pool.OnClaim = func(context.Context, warmpool.Claim) error { return errors.New("claimed") }
			_, err := w.Create(t.Context(), c.claim)
			require.Equal(t, c.code, warmpool.CodeOf(err), "%v", err)
			var faults mount.Faults
			errors.As(err, &faults)
			for i := range faults {
				require.NotEmpty(t, faults[i].Reason)
				faults[i].Reason = ""
			}
			require.Equal(t, mount.Faults(c.want), faults)
		})
	}
}

func TestWhatADriverRefusesIsRefusedBeforeAnythingIsClaimed(t *testing.T) {
	w := newWorld(t, 1)
	var seen []string
	w.pool.OnCheck = func(m mount.Mount) error {
		seen = append(seen, m.Target)
		require.NotContains(t, m.SubPath, "${", "a driver sees a sub-path as it will be")
		if m.Volume == "other" {
			return fmt.Errorf("%w: this host path is not among those that the operator allows", mount.ErrDenied)
		}
		return nil
	}
	_, err := w.Create(t.Context(), claim(
		mount.Spec{Volume: "scratch", Target: "/a", SubPath: "of/${SANDBOX_ID}"}, mount.Spec{Volume: "other", Target: "/b"}, mount.Spec{Volume: "none", Target: "/c"},
	))
	var faults mount.Faults
	require.ErrorAs(t, err, &faults)
	require.Len(t, faults, 2, "%v", faults)
	require.Equal(t, 1, faults[0].Index)
	require.Contains(t, faults[0].Reason, "not among those")
	require.Equal(t, []string{"/a", "/b"}, seen, "what is refused already is not asked about")
	require.Zero(t, w.pool.Claimed())
	w.pool.OnCheck = nil
	_, err = w.Create(t.Context(), claim(mount.Spec{Volume: "other", Target: "/b"}))
	require.NoError(t, err)
}

func TestATemplateWithoutTheRuntimeTakesNoMounts(t *testing.T) {
	w := newWorld(t, 1)
	c := claim(mount.Spec{Volume: "scratch", Target: "/data"})
	c.Template = "plain-v1"
	_, err := w.Create(t.Context(), c)
	require.Equal(t, warmpool.Invalid, warmpool.CodeOf(err))
	require.ErrorContains(t, err, "csi")
	require.Zero(t, w.pool.Claimed())
}

func TestCheckLeavesASpecWithoutVolumeToItsDialect(t *testing.T) {
	w := newWorld(t, 1)
	c := claim(mount.Spec{Volume: "scratch", Target: "/data"}, mount.Spec{Volume: "other", Target: "/data"})
	c.Mounts[0].Volume = ""
	var faults mount.Faults
	require.ErrorAs(t, w.Check(t.Context(), c), &faults)
	require.Len(t, faults, 1)
	require.Equal(t, 1, faults[0].Index)
	require.Equal(t, mount.FieldTarget, faults[0].Field)
}

func TestAnUnreachableSandboxIsReplaced(t *testing.T) {
	for _, c := range []struct {
		name       string
		bad, stock int
		code       warmpool.Code // empty: it succeeds
	}{
		{"one", 1, 5, ""},
		{"two", 2, 5, ""},
		{"three are too many", 3, 5, warmpool.Unavailable},
		{"until the stock is gone", 2, 2, warmpool.Exhausted},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.stock)
			var calls atomic.Int32
			w.pool.OnStart = func(context.Context, warmpool.ID, warmpool.Start) error {
				if int(calls.Add(1)) <= c.bad {
					return fmt.Errorf("dial: %w", warmpool.ErrUnreachable)
				}
				return nil
			}
			_, err := w.Create(t.Context(), claim())
			if c.code == "" {
				require.NoError(t, err)
				require.Equal(t, 1, w.pool.Claimed())
				return
			}
			require.Equal(t, c.code, warmpool.CodeOf(err), "%v", err)
			require.Zero(t, w.pool.Claimed())
		})
	}
}

func TestAVolumesOwnFaultIsAnsweredAndNothingIsLeft(t *testing.T) {
	w := newWorld(t, 3)
	starts := 0
	w.pool.OnStart = func(context.Context, warmpool.ID, warmpool.Start) error {
		starts++
		return warmpool.Errorf(warmpool.Denied, "mount /data: the storage refuses the credentials")
	}
	_, err := w.Create(t.Context(), claim(mount.Spec{Volume: "scratch", Target: "/data"}))
	require.Equal(t, warmpool.Denied, warmpool.CodeOf(err))
	var e *warmpool.Error
	require.ErrorAs(t, err, &e)
	require.True(t, e.Final, "asking again meets the same volume")
	require.Equal(t, 1, starts)
	require.Zero(t, w.pool.Claimed())
}

func TestTroubleThatPassesIsNotFinal(t *testing.T) {
	for name, fail := range map[string]error{
		"a sandbox that cannot be reached":  warmpool.ErrUnreachable,
		"a backend that says when to retry": &warmpool.Error{Code: warmpool.Unavailable, Message: "try again", RetryAfter: time.Second},
	} {
		w := newWorld(t, 5)
		w.pool.OnStart = func(context.Context, warmpool.ID, warmpool.Start) error { return fail }
		_, err := w.Create(t.Context(), claim(mount.Spec{Volume: "scratch", Target: "/data"}))
		var e *warmpool.Error
		require.ErrorAs(t, err, &e, name)
		require.False(t, e.Final, name)
	}
}

func TestACallerWhoLeavesLeavesNoSandbox(t *testing.T) {
	t.Run("while it starts", func(t *testing.T) {
		w := newWorld(t, 3)
		ctx, leave := context.WithCancel(t.Context())
		w.pool.OnStart = func(ctx context.Context, _ warmpool.ID, _ warmpool.Start) error {
			leave()
			<-ctx.Done()
			return ctx.Err()
		}
		_, err := w.Create(ctx, claim())
		require.Equal(t, warmpool.Unavailable, warmpool.CodeOf(err))
		require.Zero(t, w.pool.Claimed())
	})
	t.Run("just before the answer", func(t *testing.T) {
		w := newWorld(t, 3)
		ctx, leave := context.WithCancel(t.Context())
		late := &lateBackend{Memory: w.pool, leave: leave}
		s, err := gateway.New(gateway.Config{Backend: late, Reader: warmpooltest.Volumes{}, Policy: mount.DefaultPolicy(), Limits: gateway.DefaultLimits(), Clock: w.clock})
		require.NoError(t, err)
		_, err = s.Create(ctx, claim())
		require.ErrorIs(t, err, context.Canceled)
		require.Zero(t, w.pool.Claimed())
	})
}

func TestACreateEndsAtItsDeadlineAndLeavesNothing(t *testing.T) {
	w := newWorld(t, 3)
	limits := gateway.DefaultLimits()
	limits.Create = 20 * time.Millisecond
	s, err := gateway.New(gateway.Config{Backend: w.pool, Reader: warmpooltest.Volumes{}, Policy: mount.DefaultPolicy(), Limits: limits, Clock: w.clock})
	require.NoError(t, err)
	w.pool.OnStart = func(ctx context.Context, _ warmpool.ID, _ warmpool.Start) error {
		<-ctx.Done()
		return ctx.Err()
	}
	_, err = s.Create(t.Context(), claim())
	var e *warmpool.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, warmpool.Unavailable, e.Code)
	require.Contains(t, e.Message, "not ready in time")
	require.Zero(t, w.pool.Claimed(), "the undoing has a time of its own")
}

// lateBackend starts well, but the caller has left by then.
type lateBackend struct {
	*warmpooltest.Memory
	leave func()
}

func (b *lateBackend) Start(ctx context.Context, id warmpool.ID, s warmpool.Start) (warmpool.Sandbox, error) {
	sb, err := b.Memory.Start(ctx, id, s)
	b.leave()
	return sb, err
}

func TestForeignUnknownAndUnfinishedSandboxesAreTheSameNotFound(t *testing.T) {
	w := newWorld(t, 3)
	sb, err := w.Create(t.Context(), claim())
	require.NoError(t, err)
	calls := map[string]func(p warmpool.Principal, id warmpool.ID) error{
		"get": func(p warmpool.Principal, id warmpool.ID) error { _, err := w.Get(t.Context(), p, id); return err },
		"connect": func(p warmpool.Principal, id warmpool.ID) error {
			_, err := w.Connect(t.Context(), p, id, time.Minute)
			return err
		},
		"timeout": func(p warmpool.Principal, id warmpool.ID) error { return w.SetTimeout(t.Context(), p, id, time.Minute) },
		"refresh": func(p warmpool.Principal, id warmpool.ID) error { return w.Refresh(t.Context(), p, id, time.Minute) },
		"usage":   func(p warmpool.Principal, id warmpool.ID) error { _, err := w.Usage(t.Context(), p, id); return err },
		"kill":    func(p warmpool.Principal, id warmpool.ID) error { return w.Kill(t.Context(), p, id) },
	}
	for name, call := range calls {
		unknown := warmpool.NewID()
		foreign := call(bob, sb.ID)
		require.Equal(t, warmpool.NotFound, warmpool.CodeOf(foreign), name)
		require.EqualError(t, foreign, fmt.Sprintf("sandbox %s not found", sb.ID), name)
		require.EqualError(t, call(bob, unknown), fmt.Sprintf("sandbox %s not found", unknown), name)
	}
	require.Equal(t, 1, w.pool.Claimed(), "a foreign kill kills nothing")
	w.pool.Fail(sb.ID, "died")
	_, err = w.Get(t.Context(), alice, sb.ID)
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))
	require.NoError(t, w.Kill(t.Context(), alice, sb.ID), "a dead one can be cleared away")
}

func TestTimeoutsMoveTheEnd(t *testing.T) {
	w := newWorld(t, 1)
	sb, err := w.Create(t.Context(), claim())
	require.NoError(t, err)
	now := w.clock.Now()
	end := func() time.Duration {
		got, err := w.Get(t.Context(), alice, sb.ID)
		require.NoError(t, err)
		return got.EndAt.Sub(now)
	}
	_, err = w.Connect(t.Context(), alice, sb.ID, time.Second)
	require.NoError(t, err)
	require.Equal(t, time.Minute, end(), "connect never shortens")
	_, err = w.Connect(t.Context(), alice, sb.ID, time.Hour)
	require.NoError(t, err)
	require.Equal(t, time.Hour, end())
	require.NoError(t, w.SetTimeout(t.Context(), alice, sb.ID, 10*time.Second))
	require.Equal(t, 10*time.Second, end(), "a timeout may shorten")
	require.NoError(t, w.Refresh(t.Context(), alice, sb.ID, time.Second))
	require.Equal(t, 10*time.Second, end(), "a refresh never shortens")
	require.Equal(t, warmpool.Invalid, warmpool.CodeOf(w.SetTimeout(t.Context(), alice, sb.ID, 48*time.Hour)))
	require.NoError(t, w.SetTimeout(t.Context(), alice, sb.ID, 0))
	_, err = w.Get(t.Context(), alice, sb.ID)
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err), "zero ends it now")
}

func TestListPagesNeitherRepeatNorHide(t *testing.T) {
	w := newWorld(t, 20)
	var made []warmpool.ID
	for i := range 7 {
		if i%2 == 0 { // pairs that started at the same instant
			w.clock.SetTime(w.clock.Now().Add(time.Second))
		}
		sb, err := w.Create(t.Context(), claim())
		require.NoError(t, err)
		made = append(made, sb.ID)
	}
	foreign := claim()
	foreign.Principal = bob
	_, err := w.Create(t.Context(), foreign)
	require.NoError(t, err)
	for _, oldest := range []bool{true, false} {
		q := gateway.Query{Limit: 2, OldestFirst: oldest}
		var (
			seen   []warmpool.ID
			starts []int64
		)
		for {
			page, err := w.List(t.Context(), alice, q)
			require.NoError(t, err)
			for _, sb := range page.Sandboxes {
				starts, seen = append(starts, sb.StartedAt.Unix()), append(seen, sb.ID)
			}
			require.Equal(t, 7, page.Total)
			if q.Cursor = page.Next; page.Next == "" {
				break
			}
		}
		require.ElementsMatch(t, made, seen)
		if oldest {
			require.IsNonDecreasing(t, starts)
		} else {
			require.IsNonIncreasing(t, starts)
		}
	}
	_, err = w.List(t.Context(), alice, gateway.Query{Cursor: "!"})
	require.Equal(t, warmpool.Invalid, warmpool.CodeOf(err))
	page, err := w.List(t.Context(), alice, gateway.Query{StartedAfter: w.clock.Now()})
	require.NoError(t, err)
	require.Len(t, page.Sandboxes, 1)
}

func TestAnIncompleteServiceIsRefused(t *testing.T) {
	_, err := gateway.New(gateway.Config{})
	require.ErrorContains(t, err, "Backend")
	_, err = gateway.New(gateway.Config{Backend: &warmpooltest.Memory{}, Reader: warmpooltest.Volumes{}, Policy: mount.DefaultPolicy()})
	require.ErrorContains(t, err, "limit")
}
