// Package trace sends the spans of a process to a collector. It is a package of its own so that only the programs which have spans carry
// the exporter: an agent must stay small.
package trace

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/sandgate-dev/sandgate/cmd/internal/boot"
)

// farewell is how long the last spans may take to be sent.
const farewell = 3 * time.Second

// Export returns an actor that sends spans to an OpenTelemetry collector at host:port. Call it before anything asks for a tracer. The
// actor ends with its context, and what is under way then is sent.
func Export(ctx context.Context, component, endpoint string, log *slog.Logger) (func(ctx context.Context) error, error) {
	// The collector is the operator's, in the same cluster; nothing secret is in a span.
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(endpoint), otlptracegrpc.WithInsecure())
	if err != nil {
		return nil, fmt.Errorf("traces to %s: %w", endpoint, err)
	}
	provider := sdk.NewTracerProvider(
		sdk.WithBatcher(exporter),
		sdk.WithSampler(sdk.ParentBased(sdk.AlwaysSample())),
		sdk.WithResource(resource.NewSchemaless(attribute.String("service.name", "sandgate-"+component), attribute.String("service.version", boot.Version))),
	)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces", "error", err) }))
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	return func(ctx context.Context) error {
		<-ctx.Done()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		_ = provider.Shutdown(last) // a collector that is gone must not make the process fail
		return nil
	}, nil
}
