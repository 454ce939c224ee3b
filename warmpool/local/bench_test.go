package local

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// BenchmarkClaimAndStart takes warm sandboxes while the pool is being refilled, and prints the spread.
func BenchmarkClaimAndStart(b *testing.B) {
	for name, mounts := range map[string][]mount.Mount{"plain": nil, "tmpfs": {scratch("/data")}} {
		b.Run(name, func(b *testing.B) {
			if os.Getuid() != 0 {
				b.Skip("needs root: it runs containers")
			}
			r := onThisMachine(b, aReal("base", 10))
			require.Eventually(b, func() bool {
				got, err := r.Template(b.Context(), "base")
				return err == nil && got.Ready == 10
			}, time.Minute, 10*time.Millisecond)
			var took []time.Duration
			for b.Loop() {
				begun := time.Now()
				s := r.start(claimOf("base"), mounts...)
				took = append(took, time.Since(begun))
				b.StopTimer()
				require.NoError(b, r.Release(b.Context(), s.ID))
				b.StartTimer()
			}
			slices.Sort(took)
			for _, p := range []int{50, 95, 99} {
				b.ReportMetric(float64(took[(len(took)-1)*p/100].Microseconds()), "us-p"+map[int]string{50: "50", 95: "95", 99: "99"}[p])
			}
		})
	}
}

// BenchmarkMake makes and ends cold sandboxes.
func BenchmarkMake(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("needs root: it runs containers")
	}
	r := onThisMachine(b, aReal("base", 0))
	require.NoError(b, r.ready(b.Context()))
	plan := r.pools["base"].plan
	var ends time.Duration
	for b.Loop() {
		made, err := r.machine.Make(b.Context(), warmpool.NewID(), plan)
		require.NoError(b, err)
		begun := time.Now()
		require.NoError(b, made.End(b.Context()))
		ends += time.Since(begun)
	}
	b.ReportMetric(float64(ends.Microseconds())/float64(b.N), "us/end")
}

// BenchmarkIdleMemory says what an idle sandbox costs: its cgroup, and its share of this process.
func BenchmarkIdleMemory(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("needs root: it runs containers")
	}
	const n = 10
	before := resident(b)
	r := onThisMachine(b, aReal("base", n))
	require.Eventually(b, func() bool {
		got, err := r.Template(b.Context(), "base")
		return err == nil && got.Ready == n
	}, time.Minute, 10*time.Millisecond)
	for b.Loop() {
		var memory, cache int64
		r.mu.Lock()
		for _, s := range r.sandboxes {
			u, err := s.box.Usage()
			require.NoError(b, err)
			memory, cache = memory+u.memory, cache+u.cache
		}
		r.mu.Unlock()
		b.ReportMetric(float64(memory)/n/1e6, "MB-memory")
		b.ReportMetric(float64(cache)/n/1e6, "MB-cache")
		b.ReportMetric(float64(resident(b)-before)/n/1e6, "MB-ours")
	}
}

func resident(b *testing.B) int64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	require.NoError(b, err)
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	require.NoError(b, err)
	return pages * int64(os.Getpagesize())
}
