package sandbox

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
)

type choreKey struct{}

// Chore names the chore that a context belongs to, for the agent's log; empty for none. It is the trace's ID where there is a trace.
func Chore(ctx context.Context) string {
	id, _ := ctx.Value(choreKey{}).(string)
	return id
}

// begin gives a chore its ID and its span.
func begin(ctx context.Context, key types.NamespacedName, goesOn bool) (context.Context, func(report)) {
	name := "sandbox detach"
	if goesOn {
		name = "sandbox fit"
	}
	ctx, span := otel.Tracer("sandgate/controller").Start(ctx, name, trace.WithAttributes(
		attribute.String("namespace", key.Namespace), attribute.String("sandbox", key.Name)))
	id := string(uuid.NewUUID())
	if c := span.SpanContext(); c.HasTraceID() {
		id = c.TraceID().String()
	}
	return context.WithValue(ctx, choreKey{}, id), func(r report) {
		span.SetAttributes(attribute.Int("mounts", len(r.mounts)), attribute.Bool("missed", r.missed))
		span.End()
	}
}
