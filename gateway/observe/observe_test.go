package observe_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/gateway/observe"
	"github.com/sandgate-dev/sandgate/warmpool"
)

func TestWhatHappensIsCounted(t *testing.T) {
	r := prometheus.NewRegistry()
	o, err := observe.New(r)
	require.NoError(t, err)
	r.MustRegister(observe.Pools(func(context.Context) ([]warmpool.Template, error) {
		return []warmpool.Template{{Name: "base", Namespace: "default", Desired: 3, Ready: 2, Claimed: 1}}, nil
	}))
	o.Claimed("base", "warm", nil)
	o.Claimed("base", "cold", warmpool.Errorf(warmpool.Exhausted, "none"))
	o.Stock("base", true)
	o.Stock("base", false)
	o.Stock("new", true)
	o.Conflict("base")
	o.Waiting("base", 2)
	o.Waiting("base", -1)
	o.Compromised("base")
	_, done := o.Phase(t.Context(), "mount", "tmpfs")
	done(context.Canceled)
	want := `
sandgate_claims_total{kind="cold",outcome="exhausted",pool="base"} 1
sandgate_claims_total{kind="warm",outcome="ok",pool="base"} 1
sandgate_pool_hits_total{pool="base"} 1
sandgate_pool_misses_total{pool="base"} 1
sandgate_pool_conflicts_total{pool="base"} 1
sandgate_pool_hits_total{pool="new"} 1
sandgate_pool_misses_total{pool="new"} 0
sandgate_pool_conflicts_total{pool="new"} 0
sandgate_pool_compromised_total{pool="new"} 0
sandgate_pool_compromised_total{pool="base"} 1
sandgate_pool_waiters{pool="base"} 1
sandgate_pool_desired{namespace="default",pool="base"} 3
sandgate_pool_ready{namespace="default",pool="base"} 2
sandgate_pool_claimed{namespace="default",pool="base"} 1
`
	all, err := r.Gather()
	require.NoError(t, err)
	var got []string
	for _, f := range all {
		for _, m := range f.Metric {
			if m.Histogram != nil {
				require.Equal(t, uint64(1), m.Histogram.GetSampleCount())
				require.Equal(t, .001, m.Histogram.Bucket[0].GetUpperBound())
				require.Equal(t, "driver=tmpfs outcome=cancelled phase=mount", labels(m.Label))
				continue
			}
			got = append(got, fmt.Sprintf("%s{%s} %g", f.GetName(), quoted(m.Label), m.GetCounter().GetValue()+m.GetGauge().GetValue()))
		}
	}
	require.ElementsMatch(t, strings.Split(strings.TrimSpace(want), "\n"), got)
	problems, err := testutil.GatherAndLint(r)
	require.NoError(t, err)
	require.Empty(t, problems, "names follow Prometheus' rules")
	_, err = observe.New(r)
	require.Error(t, err, "twice in one registry")
}

func TestAPhaseIsASpanWithItsRequest(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	before := otel.GetTracerProvider()
	otel.SetTracerProvider(trace.NewTracerProvider(trace.WithSpanProcessor(recorder)))
	t.Cleanup(func() { otel.SetTracerProvider(before) })
	o, err := observe.New(prometheus.NewRegistry())
	require.NoError(t, err)
	ctx, whole := o.Phase(gateway.WithRequestID(t.Context(), "req-1"), gateway.PhaseCreate, "")
	_, part := o.Phase(ctx, gateway.PhaseClaim, "")
	part(&warmpool.Error{Code: warmpool.Unavailable, Message: "try again", Err: errors.New("canary")})
	whole(nil)
	ended := recorder.Ended()
	require.Len(t, ended, 2)
	require.Equal(t, "claim", ended[0].Name())
	require.Equal(t, ended[1].SpanContext().SpanID(), ended[0].Parent().SpanID())
	require.Contains(t, fmt.Sprint(ended[0].Attributes()), "req-1")
	require.Equal(t, "try again", ended[0].Status().Description, "causes stay in the log")
}

func labels(pairs []*dto.LabelPair) string { return join(pairs, "%s=%s", " ") }

func quoted(pairs []*dto.LabelPair) string { return join(pairs, "%s=%q", ",") }

func join(pairs []*dto.LabelPair, format, separator string) string {
	var out []string
	for _, p := range pairs {
		out = append(out, fmt.Sprintf(format, p.GetName(), p.GetValue()))
	}
	return strings.Join(out, separator)
}
