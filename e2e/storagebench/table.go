//go:build linux

package main

import (
	"fmt"
	"time"

	"github.com/sandgate-dev/sandgate/e2e/figures"
)

func heading() {
	fmt.Printf("\n%-52s %5s %10s %10s %10s  %s\n", "", "n", "p50", "p95", "p99", "aim")
}

func row(name string, took []time.Duration, aim string) {
	fmt.Printf("%-52s %5d %10s %10s %10s  %s\n", name, len(took), figures.At(took, 50), figures.At(took, 95), figures.At(took, 99), aim)
}

// note is what a reader of the row above has to know.
func note(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }

// within says what is aimed at, and whether it was met.
func within[T int | float64 | time.Duration](what string, got, most T) string {
	return fmt.Sprintf("%s <= %v: %s", what, most, verdict(got <= most))
}

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "MISSED"
}

// times is how often b fits into a.
func times[T time.Duration | float64](a, b T) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// timed runs f and says how long it took.
func timed(f func() error) (time.Duration, error) {
	begin := time.Now()
	err := f()
	return time.Since(begin), err
}

// inTurns measures each of several things n times, one after the other, so that whatever else the machine does meets all of them. Each
// round begins with another one.
func inTurns[T any](n int, things ...func() (T, error)) ([][]T, error) {
	out := make([][]T, len(things))
	for round := range n {
		for i := range things {
			which := (round + i) % len(things)
			got, err := things[which]()
			if err != nil {
				return nil, err
			}
			out[which] = append(out[which], got)
		}
	}
	return out, nil
}

func p50[T time.Duration | float64](measured []T) T { return figures.Percentile(measured, 50) }
