package sandbox

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// mountGauge counts mounts when somebody asks.
type mountGauge struct {
	reader  client.Reader
	elected <-chan struct{}
	desc    *prometheus.Desc
}

// Mounts are the mounts of all sandboxes that have not ended by phase and verdict. Only the replica that is elected has any, so that none counts twice.
func Mounts(reader client.Reader, elected <-chan struct{}) prometheus.Collector {
	return &mountGauge{reader, elected, prometheus.NewDesc("sandgate_mounts", "Volumes of sandboxes by phase, verdict and driver.", []string{"phase", "verdict", "driver"}, nil)}
}

// Describe implements prometheus.Collector.
func (g *mountGauge) Describe(out chan<- *prometheus.Desc) { out <- g.desc }

// Collect implements prometheus.Collector.
func (g *mountGauge) Collect(out chan<- prometheus.Metric) {
	select {
	case <-g.elected:
	default:
		return
	}
	var list v1alpha1.SandboxList
	if g.reader.List(context.Background(), &list, client.UnsafeDisableDeepCopy) != nil {
		return
	}
	type kind struct {
		warmpool.MountKind
		driver string
	}
	count := map[kind]int{}
	for i := range list.Items {
		if ended(&list.Items[i]) {
			continue
		}
		for _, m := range list.Items[i].Status.Mounts {
			for _, k := range warmpool.MountKinds() { // zero is told too, so that nobody waits for a series to end
				count[kind{k, m.Driver}] += 0
			}
			count[kind{warmpool.MountKind{Phase: warmpool.MountPhase(m.Phase), Verdict: warmpool.MountVerdict(m.Verdict)}, m.Driver}]++
		}
	}
	for k, n := range count {
		out <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, float64(n), string(k.Phase), string(k.Verdict), k.driver)
	}
}
