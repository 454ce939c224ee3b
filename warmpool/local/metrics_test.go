package local

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

func TestMountsAreCountedByWhatWasLastSeenOfThem(t *testing.T) {
	f, _, _, w, sb, m := tended(t)
	lines := func() map[string]float64 {
		r := prometheus.NewRegistry()
		require.NoError(t, r.Register(w.Mounts()))
		families, err := r.Gather()
		require.NoError(t, err)
		out := map[string]float64{}
		for _, f := range families {
			require.Equal(t, "sandgate_mounts", f.GetName())
			for _, m := range f.Metric {
				require.Equal(t, "driver", m.Label[0].GetName())
				out[m.Label[1].GetValue()+" "+m.Label[0].GetValue()] = m.GetGauge().GetValue()
			}
		}
		return out
	}
	require.Equal(t, map[string]float64{"Pending " + mount.DriverTmpfs: 0, "Mounted " + mount.DriverTmpfs: 1, "Failed " + mount.DriverTmpfs: 0}, lines())
	f.do(func() { f.known = served(node.VerdictDead, "its client has ended", m) })
	require.Equal(t, map[string]float64{"Pending " + mount.DriverTmpfs: 0, "Mounted " + mount.DriverTmpfs: 0, "Failed " + mount.DriverTmpfs: 1}, lines())

	begun := make(chan struct{})
	f.do(func() {
		f.publish = func(ctx context.Context, _ mount.Mount) error {
			close(begun)
			<-ctx.Done()
			return ctx.Err()
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	done := make(chan error, 1)
	go func() {
		_, _, err := w.Publish(ctx, sb.ID, scratch("/data"))
		done <- err
	}()
	<-begun
	require.EqualValues(t, 1, lines()["Pending "+mount.DriverTmpfs])
	cancel()
	require.Error(t, <-done)
	require.EqualValues(t, 0, lines()["Pending "+mount.DriverTmpfs])
	require.Zero(t, f.looks, "no storage was asked")
	require.NoError(t, w.Release(t.Context(), sb.ID))
	require.Empty(t, lines())
}
