package local

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest"
)

func TestThePoolPassesTheContractOnAMachineInMemory(t *testing.T) {
	warmpooltest.Run(t, func(t *testing.T) warmpooltest.Backend {
		w := begin(t, newFake(), func(p *Pool) { p.Max, p.Reader = 12, warmpooltest.Volumes{} }, aSet("base", 3), furnished(aSet("furnished", 0), "/srv"))
		// The contract waits in real time.
		done := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-done:
					return
				case <-tick.C:
					w.clock.Step(10 * time.Millisecond)
				}
			}
		})
		t.Cleanup(func() { close(done); wg.Wait() })
		return capped{w.Backend}
	})
}

func TestStockIsKeptAndClaimedOnesDoNotCount(t *testing.T) {
	w := begin(t, newFake(), nil, aSet("base", 3))
	w.ready(3)
	s := w.take("base-v1")
	w.ready(3)
	got, err := w.Template(t.Context(), "base")
	require.NoError(t, err)
	require.Equal(t, 1, got.Claimed)
	require.Equal(t, 3, got.Desired)
	require.LessOrEqual(t, w.fake.most, 2, "few are made at the same time")
	require.NoError(t, w.Release(t.Context(), s.ID))
	w.until("ended", func() bool { return w.fake.left() == 3 })
}

func TestWhoWaitsIsServedInTurn(t *testing.T) {
	f := newFake()
	f.gate = make(chan struct{})
	w := begin(t, f, func(p *Pool) { p.Parallel = 1 }, aSet("base", 0))
	var mu sync.Mutex
	var order []int
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			_, err := w.Claim(t.Context(), claimOf("base"))
			require.NoError(t, err)
			mu.Lock()
			order = append(order, i)
			mu.Unlock()
		})
		w.until("in line", func() bool {
			w.Backend.mu.Lock()
			defer w.Backend.mu.Unlock()
			return w.pools["base"] != nil && len(w.pools["base"].waiters) == i+1
		})
	}
	for i := range 4 {
		f.gate <- struct{}{}
		w.until("one more served", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(order) == i+1
		})
	}
	wg.Wait()
	require.Equal(t, []int{0, 1, 2, 3}, order)
}

func TestAClaimWithoutStockIsExhaustedAtItsDeadline(t *testing.T) {
	f := newFake()
	f.gate = make(chan struct{})
	w := begin(t, f, nil, aSet("base", 0))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := w.Claim(ctx, claimOf("base"))
	requireCode(t, warmpool.Exhausted, err)
	var e *warmpool.Error
	require.ErrorAs(t, err, &e)
	require.Positive(t, e.RetryAfter)
}

func TestBeyondTheMostAClaimIsExhaustedAtOnce(t *testing.T) {
	w := begin(t, newFake(), func(p *Pool) { p.Max = 2 }, aSet("base", 1))
	w.ready(1)
	first := w.take("base")
	w.ready(1)
	w.take("base")
	_, err := w.Claim(t.Context(), claimOf("base"))
	requireCode(t, warmpool.Exhausted, err)
	require.NoError(t, w.Release(t.Context(), first.ID))
	w.take("base")
}

func TestAFailingTemplateBacksOffAndSaysWhy(t *testing.T) {
	f := newFake()
	f.fault = errors.New("no such kernel feature")
	w := begin(t, f, nil, aSet("base", 5))
	w.passes("failed thrice", 50*time.Millisecond, func() bool {
		got, err := w.Template(t.Context(), "base")
		return err == nil && f.count() >= failing && got.Reason != ""
	})
	got, err := w.Template(t.Context(), "base")
	require.NoError(t, err)
	require.Contains(t, got.Reason, "no such kernel feature")
	_, err = w.Claim(t.Context(), claimOf("base"))
	requireCode(t, warmpool.Unavailable, err)
	require.NotContains(t, err.Error(), "kernel", "callers do not hear of the machine's inside")
	before := f.count()
	require.Never(t, func() bool { return f.count() != before }, 20*time.Millisecond, time.Millisecond, "nothing may happen while the clock stands still")
	f.do(func() { f.fault = nil })
	w.passes("recovered", time.Second, func() bool {
		got, err := w.Template(t.Context(), "base")
		return err == nil && got.Ready == 5 && got.Reason == ""
	})
}

func (f *fake) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.made
}

func TestThosePatientAreToldWhenTheTemplateFails(t *testing.T) {
	f := newFake()
	f.fault = errors.New("no")
	w := begin(t, f, nil, aSet("base", 0))
	answer := make(chan error, 1)
	go func() {
		_, err := w.Claim(t.Context(), claimOf("base"))
		answer <- err
	}()
	w.passes("told", 50*time.Millisecond, func() bool { return len(answer) == 1 })
	requireCode(t, warmpool.Unavailable, <-answer)
}

func TestStockThatDiesYoungMakesTheTemplateSuspect(t *testing.T) {
	f := newFake()
	w := begin(t, f, nil, aSet("base", 1))
	for i := range failing {
		w.passes("ready", 100*time.Millisecond, func() bool { return f.left() == 1 && f.count() == i+1 && ready(w) == 1 })
		f.mu.Lock()
		for _, b := range f.boxes {
			close(b.gone)
		}
		f.mu.Unlock()
		w.until("gone", func() bool { return f.left() == 0 || f.count() > i+1 })
	}
	w.until("reason", func() bool {
		got, err := w.Template(t.Context(), "base")
		return err == nil && got.Reason != ""
	})
	w.passes("grown up", time.Second, func() bool {
		got, err := w.Template(t.Context(), "base")
		return err == nil && got.Reason == "" && got.Ready == 1
	})
}

func ready(w *world) int {
	got, err := w.Template(w.t.Context(), "base")
	if err != nil {
		return -1
	}
	return got.Ready
}

func TestDeadStockIsNotHandedOut(t *testing.T) {
	f := newFake()
	w := begin(t, f, nil, aSet("base", 2))
	w.ready(2)
	f.mu.Lock()
	f.gate = make(chan struct{}) // no more for now
	var dead warmpool.ID
	for id, b := range f.boxes {
		dead = id
		close(b.gone)
		break
	}
	f.mu.Unlock()
	s, err := w.Claim(t.Context(), claimOf("base"))
	require.NoError(t, err)
	require.NotEqual(t, dead, s.ID)
}

func TestASandboxEndsAtItsDeadline(t *testing.T) {
	w := begin(t, newFake(), nil, aSet("base", 1))
	w.ready(1)
	s := w.take("base")
	w.clock.Step(4 * time.Minute)
	_, err := w.Get(t.Context(), s.ID)
	require.NoError(t, err)
	w.passes("ended", 10*time.Second, func() bool {
		_, err := w.Get(t.Context(), s.ID)
		return warmpool.CodeOf(err) == warmpool.NotFound
	})
	require.GreaterOrEqual(t, w.clock.Now().Sub(s.StartedAt), 5*time.Minute)
}

func TestAClaimedSandboxThatNobodyStartsIsEnded(t *testing.T) {
	w := begin(t, newFake(), nil, aSet("base", 1))
	w.ready(1)
	s, err := w.Claim(t.Context(), claimOf("base"))
	require.NoError(t, err)
	w.passes("ended", 10*time.Second, func() bool {
		_, err := w.Get(t.Context(), s.ID)
		return err != nil
	})
}

func TestASandboxWhoseProcessEndsIsReaped(t *testing.T) {
	w := begin(t, newFake(), nil, aSet("base", 0))
	s := w.take("base")
	w.fake.die(s.ID)
	w.until("reaped", func() bool {
		_, err := w.Get(t.Context(), s.ID)
		return warmpool.CodeOf(err) == warmpool.NotFound && w.fake.left() == 0
	})
}

func TestReleaseIsSafeToCallManyTimesAtOnce(t *testing.T) {
	w := begin(t, newFake(), nil, aSet("base", 0))
	s := w.take("base")
	var wg sync.WaitGroup
	results := make([]error, 8)
	for i := range results {
		wg.Go(func() { results[i] = w.Release(t.Context(), s.ID) })
	}
	wg.Wait()
	done := 0
	for _, err := range results {
		if err == nil {
			done++
		} else {
			requireCode(t, warmpool.NotFound, err)
		}
	}
	require.Equal(t, 1, done)
	require.Len(t, w.fake.ends, 1)
}

func TestAnEndThatFailsIsTriedAgain(t *testing.T) {
	w := begin(t, newFake(), nil, aSet("base", 0))
	s := w.take("base")
	w.fake.do(func() { w.fake.endFail = errors.New("stuck") })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.NoError(t, w.Release(ctx, s.ID), "the caller has given up; the end goes on")
	_, err := w.Get(t.Context(), s.ID)
	requireCode(t, warmpool.NotFound, err)
	w.fake.do(func() { w.fake.endFail = nil })
	w.passes("ended", time.Second, func() bool { return w.fake.left() == 0 })
}

func TestPoolsAreAddedResizedChangedAndRemovedLive(t *testing.T) {
	w := begin(t, newFake(), nil, aSet("base", 2))
	w.ready(2)
	w.change(aSet("base", 1), aSet("other", 2))
	w.until("resized and added", func() bool {
		all, err := w.Templates(t.Context())
		return err == nil && len(all) == 2 && all[0].Ready == 1 && all[1].Ready == 2 && w.fake.left() == 3
	})
	changed := aSet("base", 1)
	changed.Spec.Template.Spec.Containers[0].Args = []string{"new"}
	made := w.fake.count()
	w.change(changed, aSet("other", 2))
	w.until("stale stock is replaced", func() bool { return w.fake.count() == made+1 && w.fake.left() == 3 })
	s := w.take("other")
	w.change(changed)
	w.until("removed", func() bool {
		_, err := w.Template(t.Context(), "other")
		return err != nil && w.fake.left() == 2
	})
	got, err := w.Get(t.Context(), s.ID)
	require.NoError(t, err, "a claimed sandbox outlives its set")
	require.Equal(t, "other", got.Template)
}

func TestAnotherProcessTakesOverWhatLives(t *testing.T) {
	f := newFake()
	w := begin(t, f, nil, aSet("base", 2))
	w.ready(2)
	running := w.take("base")
	claimed, err := w.Claim(t.Context(), claimOf("base"))
	require.NoError(t, err)
	expired := w.take("base")
	_, err = w.SetDeadline(t.Context(), expired.ID, warmpool.Deadline{At: w.clock.Now().Add(time.Hour)})
	require.NoError(t, err)
	dead := w.take("base")
	w.ready(2)
	w.stop()
	f.do(func() {
		r := f.records[expired.ID]
		r.EndAt = time.Unix(1, 0)
		f.records[expired.ID] = r
		delete(f.boxes, dead.ID)
		f.records["i00000000000000000zz"] = record{ID: "i00000000000000000zz", State: warmpool.Creating}
	})
	made := f.count()
	next := begin(t, f, nil, aSet("base", 2))
	next.ready(2)
	require.Equal(t, made, f.count(), "stock was taken over, not made again")
	got, err := next.Get(t.Context(), running.ID)
	require.NoError(t, err)
	require.Equal(t, running.Token.Reveal(), got.Token.Reveal())
	require.Equal(t, running.EndAt.Unix(), got.EndAt.Unix())
	require.Equal(t, running.Metadata, got.Metadata)
	for _, id := range []warmpool.ID{claimed.ID, expired.ID, dead.ID} {
		_, err := next.Get(t.Context(), id)
		requireCode(t, warmpool.NotFound, err)
	}
	next.until("the rest is removed", func() bool {
		known, err := f.Known()
		return err == nil && len(known) == 3
	})
}

func TestStockOfAnotherRevisionIsNotTakenOver(t *testing.T) {
	for name, c := range map[string]struct {
		record record
		want   verdict
	}{
		"the same revision":      {record{State: warmpool.Available, Template: "t", Revision: "1"}, adoptStock},
		"another revision":       {record{State: warmpool.Available, Template: "t", Revision: "2"}, discard},
		"a set that is gone":     {record{State: warmpool.Available, Template: "u", Revision: "1"}, discard},
		"half made":              {record{State: warmpool.Creating, Template: "t", Revision: "1"}, discard},
		"claimed, never started": {record{State: warmpool.Claimed, Template: "t", Revision: "1", EndAt: time.Unix(200, 0)}, discard},
		"running":                {record{State: warmpool.Running, Template: "t", EndAt: time.Unix(200, 0)}, adoptClaimed},
		"running without a set":  {record{State: warmpool.Running, Template: "u", EndAt: time.Unix(200, 0)}, adoptClaimed},
		"past its deadline":      {record{State: warmpool.Running, Template: "t", EndAt: time.Unix(100, 0)}, discard},
		"failed":                 {record{State: warmpool.Failed, Template: "t", EndAt: time.Unix(200, 0)}, discard},
	} {
		t.Run(name, func(t *testing.T) {
			got, _ := judge(c.record, map[string]string{"t": "1"}, time.Unix(100, 0))
			require.Equal(t, c.want, got)
		})
	}
}

func mounts(volumes ...string) (out []mount.Mount) {
	for _, v := range volumes {
		out = append(out, mount.Mount{Spec: mount.Spec{ID: "m" + v, Volume: v, Target: "/" + v}})
	}
	return out
}

func TestAVolumesFaultEndsTheSandboxAndIsToldToTheCaller(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		code warmpool.Code
		text string
	}{
		"wrong credentials":       {mount.ErrDenied, warmpool.Denied, "volume 'bad' at /bad could not be mounted: volume access denied"},
		"a bucket that is not":    {mount.ErrNotFound, warmpool.Invalid, "volume 'bad' at /bad"},
		"storage does not answer": {mount.ErrUnavailable, warmpool.Unavailable, "volume 'bad' at /bad"},
		"unclassified":            {errors.New("/host/path secret"), warmpool.Internal, "could not be mounted; the operator"},
		"policy":                  {mount.Faults{{Field: mount.FieldTarget, Reason: "refused"}}, warmpool.Invalid, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			f.publish = func(ctx context.Context, m mount.Mount) error {
				if m.Volume == "bad" {
					return c.err
				}
				<-ctx.Done() // others are called off
				return ctx.Err()
			}
			w := begin(t, f, nil, aSet("base", 0))
			s, err := w.Claim(t.Context(), claimOf("base"))
			require.NoError(t, err)
			_, err = w.Start(t.Context(), s.ID, warmpool.Start{Mounts: mounts("good", "bad")})
			requireCode(t, c.code, err)
			require.NotErrorIs(t, err, warmpool.ErrUnreachable)
			var e *warmpool.Error
			require.ErrorAs(t, err, &e)
			require.Contains(t, e.Message, c.text)
			require.NotContains(t, e.Message, "secret")
			require.Zero(t, f.left(), "the sandbox is destroyed, never used again")
		})
	}
}

func TestADaemonThatDoesNotTakeTheTokenIsUnreachable(t *testing.T) {
	f := newFake()
	f.init = func(context.Context, warmpool.Token, map[string]string) error { return errors.New("refused") }
	w := begin(t, f, nil, aSet("base", 0))
	s, err := w.Claim(t.Context(), claimOf("base"))
	require.NoError(t, err)
	_, err = w.Start(t.Context(), s.ID, warmpool.Start{})
	require.ErrorIs(t, err, warmpool.ErrUnreachable)
	requireCode(t, warmpool.Unavailable, err)
	require.Zero(t, f.left())
}

func TestADaemonGetsTheOwnersVariablesAndOurs(t *testing.T) {
	f := newFake()
	var got map[string]string
	f.init = func(_ context.Context, _ warmpool.Token, env map[string]string) error {
		got = env
		return nil
	}
	w := begin(t, f, nil, aSet("base", 0))
	s := w.take("base")
	require.Equal(t, map[string]string{"A": "b", "E2B_SANDBOX": "true", "E2B_SANDBOX_ID": string(s.ID), "E2B_TEMPLATE_ID": "base"}, got)
	_, err := w.Start(t.Context(), s.ID, warmpool.Start{})
	requireCode(t, warmpool.Conflict, err)
}

func TestAReleaseDuringAStartCallsItOff(t *testing.T) {
	f := newFake()
	begun := make(chan struct{})
	f.init = func(ctx context.Context, _ warmpool.Token, _ map[string]string) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	}
	w := begin(t, f, nil, aSet("base", 0))
	s, err := w.Claim(t.Context(), claimOf("base"))
	require.NoError(t, err)
	started := make(chan error, 1)
	go func() {
		_, err := w.Start(t.Context(), s.ID, warmpool.Start{})
		started <- err
	}()
	<-begun
	require.NoError(t, w.Release(t.Context(), s.ID))
	require.Error(t, <-started)
	require.Zero(t, f.left())
}

func TestAnOwnerWhoWantsNoInternetGetsNone(t *testing.T) {
	f := newFake()
	f.uplink = mount.Process{PID: 7, Start: 7}
	w := begin(t, f, nil, aSet("base", 0))
	no := false
	for name, want := range map[string]bool{"unsaid": true, "false": false} {
		c := claimOf("base")
		if name == "false" {
			c.AllowInternet = &no
		}
		s, err := w.Claim(t.Context(), c)
		require.NoError(t, err)
		s, err = w.Start(t.Context(), s.ID, warmpool.Start{})
		require.NoError(t, err)
		require.Equal(t, want, s.AllowInternet)
		require.Equal(t, !want, f.boxes[s.ID].cut)
	}
}

func TestSamplesOfASandboxAreKept(t *testing.T) {
	w := begin(t, newFake(), nil, aSet("base", 0))
	s := w.take("base")
	w.passes("two samples", samplePause, func() bool {
		u, err := w.Usage(t.Context(), s.ID)
		return err == nil && len(u) >= 2
	})
}

func TestARecordHoldsNoTokenAndNoVariable(t *testing.T) {
	f := newFake()
	w := begin(t, f, nil, aSet("base", 0))
	s, err := w.Claim(t.Context(), claimOf("base"))
	require.NoError(t, err)
	s, err = w.Start(t.Context(), s.ID, warmpool.Start{Env: map[string]string{"CANARY": "canary-value"}})
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, f.records[s.ID].save(dir))
	back, err := loadRecord(dir, s.ID)
	require.NoError(t, err)
	require.Equal(t, f.records[s.ID].Nonce, back.Nonce)
	text := readFile(t, dir+"/"+recordFile)
	require.NotContains(t, text, "canary")
	require.NotContains(t, text, s.Token.Reveal())
}
