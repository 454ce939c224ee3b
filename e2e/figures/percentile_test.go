package figures_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/e2e/figures"
)

func TestPercentilesNeedEnoughMeasurements(t *testing.T) {
	took := make([]time.Duration, 1000)
	for i := range took {
		took[i] = time.Duration(1000-i) * time.Millisecond
	}
	require.Equal(t, "501.00 ms", figures.At(took, 50))
	require.Equal(t, "991.00 ms", figures.At(took, 99))
	require.Equal(t, "-", figures.At(took[:999], 99), "of fewer than a thousand there is no p99 worth its name")
	require.Equal(t, "-", figures.At(took[:9], 50))
	require.Zero(t, figures.Percentile([]float64(nil), 50))
}
