package local

import (
	"maps"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// mountGauge counts mounts when somebody asks, by what was last seen of them: no storage is asked, so that none can hold a scrape up.
type mountGauge struct {
	backend *Backend
	desc    *prometheus.Desc
}

// Mounts are the mounts of all sandboxes by phase and verdict, as a cluster's controller tells of its own.
func (b *Backend) Mounts() prometheus.Collector {
	return &mountGauge{b, prometheus.NewDesc("sandgate_mounts", "Volumes of sandboxes by phase, verdict and driver.", []string{"phase", "verdict", "driver"}, nil)}
}

// Describe implements prometheus.Collector.
func (g *mountGauge) Describe(out chan<- *prometheus.Desc) { out <- g.desc }

// Collect implements prometheus.Collector.
func (g *mountGauge) Collect(out chan<- prometheus.Metric) {
	for k, n := range g.backend.countMounts() {
		out <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, float64(n), string(k.Phase), string(k.Verdict), k.driver)
	}
}

// kindOfMount is what mounts are counted by.
type kindOfMount struct {
	warmpool.MountKind
	driver string
}

// countMounts counts the mounts that are asked for. Of a driver that has any, kinds without one are told too, so that nobody waits for a
// series to end.
func (b *Backend) countMounts() map[kindOfMount]int {
	type fitted struct {
		box   box
		r     record
		given map[string]mount.Mount
	}
	var all []fitted
	b.mu.Lock()
	for _, s := range b.sandboxes {
		if !s.ending && len(s.Mounts) > 0 {
			all = append(all, fitted{s.box, s.record, maps.Clone(s.given)})
		}
	}
	b.mu.Unlock()
	count := map[kindOfMount]int{}
	for _, s := range all {
		known := s.box.Known()
		for _, m := range s.r.Mounts {
			live, there := known[m.ID]
			driver := live.Driver
			if driver == "" {
				driver = s.given[m.ID].Driver
			}
			if driver == "" {
				continue // of an earlier process, and lost: its driver is not written down
			}
			kind := warmpool.MountKind{Phase: warmpool.MountFailed, Verdict: warmpool.MountDead}
			switch {
			case s.r.Mounted[m.ID].IsZero():
				kind = warmpool.MountKind{Phase: warmpool.MountPending}
			case there:
				kind = warmpool.MountKind{Phase: warmpool.MountPhase(live.Phase), Verdict: warmpool.MountVerdict(live.Verdict)}
			}
			for _, k := range warmpool.MountKinds() {
				count[kindOfMount{k, driver}] += 0
			}
			count[kindOfMount{kind, driver}]++
		}
	}
	return count
}
