package volumes_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/sandgate-dev/sandgate/e2e/figures"
	"github.com/sandgate-dev/sandgate/e2e/world"
)

const (
	sandboxes = 40
	perBox    = 10
)

// kinds are how ten mounts are made up; each sandbox begins at another one.
var kinds = [perBox]string{bucket, memory, memory, shared, memory, memory, shared, memory, memory, shared}

func TestFourHundredMountsLiveOnOneMachineAndLeaveNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("starts 40 sandboxes")
	}
	w := begin(t, "../testdata/crowd/set.yaml")
	t.Log(figures.Machine())
	boxes := make([]world.Sandbox, sandboxes)
	for i := range boxes {
		require.Eventually(t, func() bool { // until the pool is full
			var err error
			boxes[i], err = w.Create(t.Context(), "crowd", `,"timeout":600`)
			return err == nil
		}, time.Minute, 50*time.Millisecond)
	}
	agent := gateway(t, w)
	before := rss(t, agent)
	took := map[string][]time.Duration{}
	for k := range perBox {
		for i, sb := range boxes {
			kind := kinds[(k+i)%perBox]
			began := time.Now()
			mount(t, w, sb, kind, fmt.Sprintf("/m%d", k), fmt.Sprintf("%d/%d", i, k))
			took[kind] = append(took[kind], time.Since(began))
		}
	}
	after := rss(t, agent)
	for _, kind := range []string{memory, shared, bucket} {
		all := took[kind]
		part := min(20, len(all)/2)
		t.Logf("%-22s %3d mounts over the API, median of the first %d: %5.1f ms, of the last %d (of 400 on this machine): %5.1f ms", kind, len(all),
			part, milliseconds(all[:part]), part, milliseconds(all[len(all)-part:]))
	}
	client := 0
	pids, err := w.Processes("s3fs")
	require.NoError(t, err)
	require.Len(t, pids, sandboxes)
	for _, pid := range pids {
		client += rss(t, pid)
	}
	t.Logf("the gateway with its agent: %d MiB before, %d MiB with 400 mounts; %d MiB for each s3fs", before>>10, after>>10, client/len(pids)>>10)

	began := time.Now()
	alive(t, w, boxes)
	t.Logf("all of them written and read from inside and looked at by the API in %s", time.Since(began).Round(time.Millisecond))

	began = time.Now()
	var group errgroup.Group
	group.SetLimit(8)
	for _, sb := range boxes {
		group.Go(func() error { return w.Kill(t.Context(), sb) })
	}
	require.NoError(t, group.Wait())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	wrong, err := w.Settle(ctx)
	require.NoError(t, err)
	require.Empty(t, wrong)
	t.Logf("all of them released, with their sandboxes, in %s", time.Since(began).Round(time.Millisecond))
	require.Empty(t, clientsOf(t, w, boxes), "begin's leak check sees the rest")
}

// alive proves each mount by a file of its own, and by what the API says.
func alive(t *testing.T, w *world.World, boxes []world.Sandbox) {
	t.Helper()
	for _, sb := range boxes {
		var script strings.Builder
		script.WriteString("set -e")
		for k := range perBox {
			fmt.Fprintf(&script, "; echo %s-%d > /m%d/f; cat /m%d/f", sb.ID, k, k, k)
		}
		out, err := w.Run(t.Context(), sb, script.String())
		require.NoError(t, err)
		var want strings.Builder
		for k := range perBox {
			fmt.Fprintf(&want, "%s-%d\n", sb.ID, k)
		}
		require.Equal(t, want.String(), out)
		all := mounts(t, w, sb)
		require.Len(t, all, perBox)
		for _, m := range all {
			require.Equal(t, "Mounted", m.Phase, m.Message)
		}
	}
}

func clientsOf(t *testing.T, w *world.World, boxes []world.Sandbox) (out []int) {
	t.Helper()
	for _, sb := range boxes {
		out = append(out, clients(t, w, sb)...)
	}
	return out
}

func milliseconds(took []time.Duration) float64 {
	return float64(figures.Percentile(took, 50).Microseconds()) / 1000
}

// gateway is the process that has the agent in it.
func gateway(t *testing.T, w *world.World) int {
	t.Helper()
	pids, err := w.Processes("sandgate")
	require.NoError(t, err)
	require.Len(t, pids, 1)
	return pids[0]
}

// rss is the resident memory of a process in KiB.
func rss(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		var kib int
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			return kib
		}
	}
	require.Fail(t, "no VmRSS")
	return 0
}
