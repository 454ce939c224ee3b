package sandboxset

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// pools are gauges that are read from the cache when somebody asks.
type pools struct {
	reader                  client.Reader
	elected                 <-chan struct{}
	desired, ready, claimed *prometheus.Desc
}

// Pools are the gauges of all pools. Only the replica that is elected has any, so that none counts twice.
func Pools(reader client.Reader, elected <-chan struct{}) prometheus.Collector {
	gauge := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"pool", "namespace"}, nil)
	}
	return &pools{
		reader: reader, elected: elected,
		desired: gauge("sandgate_pool_desired", "Unclaimed sandboxes that the pool is to keep."),
		ready:   gauge("sandgate_pool_ready", "Unclaimed sandboxes that can be claimed now."),
		claimed: gauge("sandgate_pool_claimed", "Sandboxes of the pool that callers hold."),
	}
}

// Describe implements prometheus.Collector.
func (p *pools) Describe(out chan<- *prometheus.Desc) {
	out <- p.desired
	out <- p.ready
	out <- p.claimed
}

// Collect implements prometheus.Collector.
func (p *pools) Collect(out chan<- prometheus.Metric) {
	select {
	case <-p.elected:
	default:
		return
	}
	var sets v1alpha1.SandboxSetList
	if p.reader.List(context.Background(), &sets, client.UnsafeDisableDeepCopy) != nil {
		return
	}
	for i := range sets.Items {
		s := &sets.Items[i]
		for desc, n := range map[*prometheus.Desc]int32{
			p.desired: s.Spec.Replicas, p.ready: s.Status.AvailableReplicas, p.claimed: s.Status.ClaimedReplicas,
		} {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), s.Name, s.Namespace)
		}
	}
}
