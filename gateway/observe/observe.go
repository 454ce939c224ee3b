// Package observe turns what the gateway and its backend tell of requests into Prometheus metrics and OpenTelemetry spans. It decides
// nothing and knows no request; where no tracer was set up, spans cost next to nothing.
package observe

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/warmpool"
)

var _ gateway.Observer = (*Observer)(nil)

// Observer is the gateway's and its backend's.
type Observer struct {
	tracer trace.Tracer

	phases      *prometheus.HistogramVec
	claims      *prometheus.CounterVec
	hits        *prometheus.CounterVec
	misses      *prometheus.CounterVec
	conflicts   *prometheus.CounterVec
	compromised *prometheus.CounterVec
	waiters     *prometheus.GaugeVec
}

// buckets begin where a warm create without volumes is: at milliseconds.
var buckets = []float64{.001, .002, .003, .005, .0075, .01, .015, .02, .03, .05, .075, .1, .15, .25, .5, 1, 2.5, 5, 10, 30, 60}

// New registers the metrics with r.
func New(r prometheus.Registerer) (*Observer, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	o := &Observer{
		tracer: otel.Tracer("github.com/sandgate-dev/sandgate"),
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sandgate_claim_phase_seconds", Buckets: buckets,
			Help: "How long the phases of requests took: create, publish and unpublish are wholes, mount has the volume's driver.",
		}, []string{"phase", "driver", "outcome"}),
		claims: counter("sandgate_claims_total",
			"Claims by how their sandbox came about (warm: stock, cold: made for the claim) and how they ended (ok, or the error's code).", "pool", "kind", "outcome"),
		hits:        counter("sandgate_pool_hits_total", "Claims that found stock at once.", "pool"),
		misses:      counter("sandgate_pool_misses_total", "Claims that found no stock and had to wait.", "pool"),
		conflicts:   counter("sandgate_pool_conflicts_total", "Pieces of stock that another claim had taken a moment before.", "pool"),
		compromised: counter("sandgate_pool_compromised_total", "Pieces of stock whose daemon had been taken over by somebody who is not the gateway.", "pool"),
		waiters: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sandgate_pool_waiters", Help: "Claims that stand in line for stock at this replica.",
		}, []string{"pool"}),
	}
	for _, c := range []prometheus.Collector{o.phases, o.claims, o.hits, o.misses, o.conflicts, o.compromised, o.waiters} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// Phase begins a phase of a request: a span, and a duration in the end.
func (o *Observer) Phase(ctx context.Context, phase, driver string) (context.Context, func(error)) {
	begin := time.Now()
	attributes := []attribute.KeyValue{attribute.String("sandgate.request", gateway.RequestID(ctx))}
	if driver != "" {
		attributes = append(attributes, attribute.String("sandgate.driver", driver))
	}
	ctx, span := o.tracer.Start(ctx, phase, trace.WithAttributes(attributes...))
	return ctx, func(err error) {
		o.phases.WithLabelValues(phase, driver, outcome(err)).Observe(time.Since(begin).Seconds())
		if err != nil {
			span.SetStatus(codes.Error, message(err))
			span.SetAttributes(attribute.String("sandgate.code", outcome(err)))
		}
		span.End()
	}
}

// Claimed counts a claim.
func (o *Observer) Claimed(pool, kind string, err error) {
	o.claims.WithLabelValues(pool, kind, outcome(err)).Inc()
}

// Stock counts whether a claim found stock. What has not happened to the pool yet is told as 0: a share needs both of its parts, and the
// first of a kind is no increase of a series that was not there.
func (o *Observer) Stock(pool string, hit bool) {
	for _, c := range []*prometheus.CounterVec{o.hits, o.misses, o.conflicts, o.compromised} {
		c.WithLabelValues(pool)
	}
	if hit {
		o.hits.WithLabelValues(pool).Inc()
		return
	}
	o.misses.WithLabelValues(pool).Inc()
}

// Conflict counts a piece of stock that was somebody else's already.
func (o *Observer) Conflict(pool string) { o.conflicts.WithLabelValues(pool).Inc() }

// Waiting moves the length of a line.
func (o *Observer) Waiting(pool string, delta int) {
	o.waiters.WithLabelValues(pool).Add(float64(delta))
}

// Compromised counts a piece of stock that had been taken over.
func (o *Observer) Compromised(pool string) { o.compromised.WithLabelValues(pool).Inc() }

// outcome is "ok", or the code of an error.
func outcome(err error) string {
	var coded *warmpool.Error
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &coded):
		return string(coded.Code)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "cancelled"
	}
	return string(warmpool.Internal)
}

// message is what may leave the process of an error: what its caller may read.
func message(err error) string {
	var coded *warmpool.Error
	if errors.As(err, &coded) {
		return coded.Message
	}
	return ""
}
