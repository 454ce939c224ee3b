//go:build linux

package attach

import (
	"context"
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// held is a namespace whose work can be held up by the test.
func held(t *testing.T, threads *Threads) *Namespace {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: enters mount namespaces")
	}
	f, err := os.Open("/proc/self/ns/mnt")
	require.NoError(t, err)
	n, err := NewNamespace(f, threads)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	return n
}

func TestAStuckThreadIsAbandonedCountedAndUndone(t *testing.T) {
	threads := NewThreads(1)
	n := held(t, threads)
	hold, undone, freed := make(chan struct{}), make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	started := make(chan struct{})
	go func() { <-started; cancel() }()
	err := n.enter(ctx, true, func() error { close(started); <-hold; return nil }, func() { close(undone) }, func() { close(freed) })
	require.ErrorIs(t, err, ErrStuck)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, threads.Stuck())

	full, end := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer end()
	err = n.enter(full, false, func() error { return nil }, nil, nil)
	require.ErrorContains(t, err, "1 of 1 are stuck", "a stuck thread keeps its slot")

	close(hold)
	<-undone
	<-freed
	require.NoError(t, n.enter(context.Background(), true, func() error { return nil }, nil, nil))
	require.Zero(t, threads.Stuck())
}

func TestWhatComesMeanwhileIsDoneByTheSameThreadOneAfterTheOther(t *testing.T) {
	n := held(t, NewThreads(2))
	hold, started := make(chan struct{}), make(chan struct{})
	var first, second int
	results, freed := make(chan error, 2), make(chan struct{})
	go func() {
		results <- n.enter(t.Context(), true, func() error { first = unix.Gettid(); close(started); <-hold; return nil }, nil, nil)
	}()
	<-started
	queued := func(want int) {
		require.Eventually(t, func() bool { n.mu.Lock(); defer n.mu.Unlock(); return len(n.queue) == want }, 20*time.Second, time.Millisecond)
	}
	go func() {
		results <- n.enter(t.Context(), true, func() error { second = unix.Gettid(); return nil }, nil, nil)
	}()
	queued(1)
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		left <- n.enter(ctx, true, func() error { t.Error("its caller has left"); return nil }, nil, func() { close(freed) })
	}()
	queued(2)
	leave()
	err := <-left
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, ErrStuck, "it has not begun")
	require.NoError(t, n.enter(t.Context(), false, func() error { return nil }, nil, nil), "what need not be alone does not wait")

	close(hold)
	require.NoError(t, <-results)
	require.NoError(t, <-results)
	<-freed
	require.Equal(t, first, second)
	require.NoError(t, n.enter(t.Context(), true, func() error { return nil }, nil, nil), "and another thread comes after it")
	require.Zero(t, n.threads.Stuck())
}

func TestOneContainerDoesNotKeepTheThreadsOfAll(t *testing.T) {
	threads := NewThreads(perNamespace + 1)
	busy, other := held(t, threads), held(t, threads)
	hold, results := make(chan struct{}), make(chan error)
	const many = perNamespace + 2
	for range many {
		go func() { results <- busy.enter(t.Context(), false, func() error { <-hold; return nil }, nil, nil) }()
	}
	require.Eventually(t, func() bool { return len(threads.slots) == perNamespace }, 20*time.Second, time.Millisecond)
	require.NoError(t, other.enter(t.Context(), false, func() error { return nil }, nil, nil))
	close(hold)
	for range many {
		require.NoError(t, <-results)
	}
}

func TestWhatIsLookedForWithoutEndIsGivenUp(t *testing.T) {
	looks := 0
	err := persist(func() (bool, error) { looks++; return false, nil })
	require.ErrorIs(t, err, ErrBusy)
	require.LessOrEqual(t, looks, tries)
	slow := func() { unix.Nanosleep(&unix.Timespec{Sec: 1, Nsec: 1e6}, nil) } // a directory that takes long to walk to
	looks = 0
	require.ErrorIs(t, persist(func() (bool, error) { looks++; slow(); return false, nil }), ErrBusy)
	require.Equal(t, 2, looks)
	looks = 0
	require.NoError(t, persist(func() (bool, error) {
		if looks++; looks > 1 {
			return true, nil
		}
		slow()
		return false, nil
	}), "what has taken long and worked is seen to have")
}

func TestWhoeverGivesUpWaitingForAThreadLeavesNothing(t *testing.T) {
	threads := NewThreads(1)
	n := held(t, threads)
	hold, started := make(chan struct{}), make(chan struct{})
	stuck := make(chan error)
	go func() {
		stuck <- n.enter(t.Context(), true, func() error { close(started); <-hold; return nil }, nil, nil)
	}()
	<-started
	open := func() int {
		files, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(files)
	}
	before, goroutines, freed := open(), runtime.NumGoroutine(), 0
	for i := range 50 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		require.ErrorIs(t, n.enter(ctx, i%2 == 0, func() error { return nil }, nil, func() { freed++ }), context.DeadlineExceeded)
		cancel()
	}
	require.Equal(t, 50, freed)
	require.LessOrEqual(t, len(n.queue), 1)
	require.Eventually(t, func() bool { return open() == before && runtime.NumGoroutine() < goroutines+10 }, 20*time.Second, time.Millisecond)
	close(hold)
	require.NoError(t, <-stuck)
	require.NoError(t, n.enter(t.Context(), true, func() error { return nil }, nil, nil))
}

func TestClosingANamespaceFreesThoseWhoWait(t *testing.T) {
	threads := NewThreads(1)
	n := held(t, threads)
	hold, started := make(chan struct{}), make(chan struct{})
	results := make(chan error, 2)
	go func() {
		results <- n.enter(context.Background(), false, func() error { close(started); <-hold; return nil }, nil, nil)
	}()
	<-started
	waiting := make(chan struct{})
	go func() {
		close(waiting)
		results <- n.enter(context.Background(), false, func() error { return nil }, nil, nil)
	}()
	<-waiting
	require.NoError(t, n.Close())
	require.ErrorIs(t, <-results, ErrGone)
	require.ErrorIs(t, <-results, ErrGone)
	close(hold)
	require.Eventually(t, func() bool { return threads.Stuck() == 0 }, 20*time.Second, time.Millisecond)
}

func TestWorkThatFailsReportsItsError(t *testing.T) {
	n := held(t, NewThreads(1))
	boom := errors.New("boom")
	require.ErrorIs(t, n.enter(context.Background(), false, func() error { return boom }, nil, nil), boom)
}

func TestMountinfoEscapes(t *testing.T) {
	for in, want := range map[string]string{`/a\040b`: "/a b", `/a\134b`: `/a\b`, `/a\`: `/a\`, `/a\9`: `/a\9`, "/ä": "/ä"} {
		require.Equal(t, want, unescape(in))
	}
	id, point, ok := parseLine(`36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root rw`)
	require.True(t, ok)
	require.EqualValues(t, 36, id)
	require.Equal(t, "mnt 2", point)
	_, _, ok = parseLine("garbage")
	require.False(t, ok)
}

func TestTheFirstThreadIsNeverThrownAway(t *testing.T) {
	const times = 500
	ids := make(chan int, times)
	for range times {
		throwAway(func() { ids <- unix.Gettid() })
	}
	for range times {
		require.NotEqual(t, unix.Getpid(), <-ids)
	}
}
