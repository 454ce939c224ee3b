package local

import (
	"context"
	"strings"
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
				require.Equal(t, mount.DriverTmpfs, m.Label[0].GetValue())
				out[strings.TrimSpace(m.Label[1].GetValue()+" "+m.Label[2].GetValue())] = m.GetGauge().GetValue()
			}
		}
		return out
	}
	only := func(kind string) map[string]float64 {
		out := map[string]float64{"Pending": 0, "Mounted live": 0, "Mounted slow": 0, "Failed": 0, "Failed hung": 0, "Failed dead": 0}
		out[kind] = 1
		return out
	}
	require.Equal(t, only("Mounted live"), lines())
	for verdict, kind := range map[node.Verdict]string{
		node.VerdictSlow: "Mounted slow", node.VerdictHung: "Failed hung", node.VerdictDead: "Failed dead", node.VerdictLive: "Mounted live",
	} {
		f.do(func() { f.known = served(verdict, "", m) })
		require.Equal(t, only(kind), lines())
	}
	f.do(func() { f.known = nil })
	require.Equal(t, only("Failed dead"), lines(), "one that is gone")
	f.do(func() { f.known = served(node.VerdictDead, "its client has ended", m) })

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
	require.EqualValues(t, 1, lines()["Pending"])
	cancel()
	require.Error(t, <-done)
	require.EqualValues(t, 0, lines()["Pending"])
	require.Zero(t, f.looks, "no storage was asked")
	require.NoError(t, w.Release(t.Context(), sb.ID))
	require.Empty(t, lines())
}
