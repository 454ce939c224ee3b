package observe

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sandgate-dev/sandgate/warmpool"
)

// Templates lists the pools; nothing while they are not known.
type Templates func(ctx context.Context) ([]warmpool.Template, error)

// pools are gauges that are read from the backend when somebody asks.
type pools struct {
	templates               Templates
	desired, ready, claimed *prometheus.Desc
}

// scrape bounds the question for the pools.
const scrape = 2 * time.Second

// Pools are the pools as this replica sees them, by the labels of the controller's gauges of these names.
func Pools(t Templates) prometheus.Collector {
	gauge := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"pool", "namespace"}, nil)
	}
	return &pools{
		templates: t,
		desired:   gauge("sandgate_pool_desired", "Unclaimed sandboxes that the pool is to keep."),
		ready:     gauge("sandgate_pool_ready", "Unclaimed sandboxes that can be claimed now, as this replica sees it."),
		claimed:   gauge("sandgate_pool_claimed", "Sandboxes of the pool that callers hold, as this replica sees it."),
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
	ctx, cancel := context.WithTimeout(context.Background(), scrape)
	defer cancel()
	all, err := p.templates(ctx)
	if err != nil {
		return // not known yet: better no number than a wrong one
	}
	for _, t := range all {
		for desc, n := range map[*prometheus.Desc]int{p.desired: t.Desired, p.ready: t.Ready, p.claimed: t.Claimed} {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), t.Name, t.Namespace)
		}
	}
}
