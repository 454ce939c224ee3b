package figures

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// At is a percentile of measurements in milliseconds, "-" when there are too few to speak of it.
func At(took []time.Duration, percent int) string {
	if len(took) < 10 || percent > 95 && len(took) < 1000 {
		return "-"
	}
	return fmt.Sprintf("%.2f ms", float64(Percentile(took, percent).Microseconds())/1000)
}

// Percentile is the measurement that so many percent of all are below, 0 of none.
func Percentile[T cmp.Ordered](measured []T, percent int) T {
	if len(measured) == 0 {
		return *new(T)
	}
	sorted := slices.Sorted(slices.Values(measured))
	return sorted[min(len(sorted)-1, len(sorted)*percent/100)]
}
