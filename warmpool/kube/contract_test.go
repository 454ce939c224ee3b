package kube_test

import (
	"testing"

	"github.com/sandgate-dev/sandgate/warmpool/kube"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest"
)

// bounded is a backend whose stock nobody refills.
type bounded struct {
	*kube.Backend
	stock int
}

// Capacity implements the contract's own interface.
func (b bounded) Capacity(string) int { return b.stock }

func TestTheContract(t *testing.T) {
	warmpooltest.Run(t, func(t *testing.T) warmpooltest.Backend {
		w := newWorld(t)
		w.set("base", 8)
		b := w.replica(func(c *kube.Config) { c.Cold = -1 })
		w.stocked(b, "base", 8)
		return bounded{b, 8}
	})
}
