package kube

import "context"

// Observer is told what happens to claims, for metrics and traces.
type Observer interface {
	// Phase begins a phase of a request: init or mount, the latter with the volume's driver. The function that it returns is
	// called once, at the phase's end.
	Phase(ctx context.Context, phase, driver string) (context.Context, func(err error))
	// Claimed tells how a claim ended, and whether its sandbox was stock ("warm") or made for it ("cold").
	Claimed(pool, kind string, err error)
	// Stock tells whether there was stock when a claim came.
	Stock(pool string, hit bool)
	// Conflict tells that a piece of stock was somebody else's already.
	Conflict(pool string)
	// Waiting tells that more (or less, below 0) claims wait for stock.
	Waiting(pool string, delta int)
	// Compromised tells that a piece of stock had been taken over by somebody who is not the gateway.
	Compromised(pool string)
}

// How a sandbox came to its claim.
const (
	kindWarm = "warm"
	kindCold = "cold"
)

// Phases of a request.
const (
	phaseInit  = "init"
	phaseMount = "mount"
)

// unobserved is an Observer for nobody.
type unobserved struct{}

// Phase implements Observer.
func (unobserved) Phase(ctx context.Context, _, _ string) (context.Context, func(error)) {
	return ctx, func(error) {}
}

// Claimed implements Observer.
func (unobserved) Claimed(string, string, error) {}

// Stock implements Observer.
func (unobserved) Stock(string, bool) {}

// Conflict implements Observer.
func (unobserved) Conflict(string) {}

// Waiting implements Observer.
func (unobserved) Waiting(string, int) {}

// Compromised implements Observer.
func (unobserved) Compromised(string) {}
