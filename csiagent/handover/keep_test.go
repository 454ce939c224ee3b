//go:build linux

package handover_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/sandgate-dev/sandgate/csiagent/handover"
)

func TestKeepWaitsLongerEachTimeButNeverTooLong(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Unix(0, 0))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		handover.Keep(ctx, filepath.Join(t.TempDir(), "nobody"), clk, func() {})
		close(done)
	}()
	for _, pause := range []int{50, 100, 200, 400, 800, 1600, 2000, 2000} {
		require.Eventually(t, clk.HasWaiters, 20*time.Second, time.Millisecond)
		clk.Step(time.Duration(pause)*time.Millisecond - 1)
		require.True(t, clk.HasWaiters(), "%d ms are not over", pause)
		clk.Step(1)
	}
	cancel()
	<-done
}
