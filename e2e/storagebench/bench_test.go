//go:build linux

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Each of these plants a slowness that a figure must show: a bench that cannot look bad proves nothing.

func TestWhatIsSlowerThanTheOtherIsFoundToBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		takes := func(d time.Duration) func() (time.Duration, error) {
			return func() (time.Duration, error) { return timed(func() error { <-time.After(d); return nil }) }
		}
		got, err := inTurns(20, takes(10*time.Millisecond), takes(16*time.Millisecond))
		require.NoError(t, err)
		require.InDelta(t, 1.6, times(p50(got[1]), p50(got[0])), 0.01)
		require.Contains(t, within("times one", times(p50(got[1]), p50(got[0])), 1.5), "MISSED")
		require.Contains(t, within("p50", p50(got[0]), 10*time.Millisecond), "met")
		require.Contains(t, within("p50", p50(got[0]), 9*time.Millisecond), "MISSED")
	})
}

func TestTurnsMeetTheSameMachine(t *testing.T) {
	var order strings.Builder
	thing := func(name string) func() (int, error) {
		return func() (int, error) { order.WriteString(name); return 0, nil }
	}
	_, err := inTurns(3, thing("a"), thing("b"))
	require.NoError(t, err)
	require.Equal(t, "abbaab", order.String(), "each is first as often as the other, but for the odd round")
	_, err = inTurns(3, func() (int, error) { return 0, errors.New("planted") })
	require.ErrorContains(t, err, "planted", "what fails is no figure")
}

func TestAnOutageLastsUntilTheLastReaderReadsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		read := func() error {
			if down.Load() {
				return errors.New("not connected")
			}
			return nil
		}
		for _, lasts := range []time.Duration{30 * time.Millisecond, 150 * time.Millisecond} {
			o, err := (&stage{}).outage(t.Context(), read, func() error {
				down.Store(true)
				<-time.After(lasts)
				down.Store(false)
				return nil
			})
			require.NoError(t, err)
			require.InDelta(t, lasts.Seconds(), o.lasted.Seconds(), 0.002)
			require.Greater(t, o.failed, readers*25)
		}
		_, err := (&stage{}).outage(t.Context(), read, func() error { return nil })
		require.ErrorContains(t, err, "failed before: false", "a blow that nobody feels is none")
		down.Store(true)
		_, err = (&stage{}).outage(t.Context(), read, func() error { return nil })
		require.Error(t, err, "what does not come back is no figure")
	})
}

func TestRatesAreOfWhatWasReallyWrittenAndRead(t *testing.T) {
	dir := t.TempDir()
	got, err := writeRead(filepath.Join(dir, "file"), 8<<20)
	require.NoError(t, err)
	require.Positive(t, got[0])
	require.Positive(t, got[1])
	require.NoFileExists(t, filepath.Join(dir, "file"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "short"), make([]byte, 100), 0o600))
	require.ErrorContains(t, readAll(filepath.Join(dir, "short"), 200), "read 100 of 200 bytes")
	require.InDelta(t, 2.0, median([]rates{{1, 9}, {2, 9}, {3, 9}}, 0), 0.01)
	require.InDelta(t, 0.5, times(median([]rates{{1, 9}}, 0), median([]rates{{2, 9}}, 0)), 0.01, "half as fast")
	require.Equal(t, "MISSED", verdict(0.5 >= 0.9))
}

func TestMemoryThatIsTakenShows(t *testing.T) {
	before, err := rss(os.Getpid())
	require.NoError(t, err)
	taken := make([]byte, 64<<20)
	for i := range taken {
		taken[i] = byte(i)
	}
	after, err := rss(os.Getpid())
	require.NoError(t, err)
	require.Greater(t, after, before+50)
	require.NotEmpty(t, taken[len(taken)-1:])
	_, err = rss(1 << 30)
	require.Error(t, err)
}
