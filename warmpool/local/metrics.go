package local

import (
	"maps"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// mountGauge counts mounts when somebody asks, by what was last seen of them: no storage is asked, so that none can hold a scrape up.
type mountGauge struct {
	backend *Backend
	desc    *prometheus.Desc
}

// Mounts are the mounts of all sandboxes by phase, as a cluster's controller tells of its own.
func (b *Backend) Mounts() prometheus.Collector {
	return &mountGauge{b, prometheus.NewDesc("sandgate_mounts", "Volumes of sandboxes by phase and driver.", []string{"phase", "driver"}, nil)}
}

// Describe implements prometheus.Collector.
func (g *mountGauge) Describe(out chan<- *prometheus.Desc) { out <- g.desc }

// Collect implements prometheus.Collector.
func (g *mountGauge) Collect(out chan<- prometheus.Metric) {
	for k, n := range g.backend.countMounts() {
		out <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, float64(n), string(k.phase), k.driver)
	}
}

// kindOfMount is what mounts are counted by.
type kindOfMount struct {
	phase  warmpool.MountPhase
	driver string
}

// countMounts counts the mounts that are asked for. Of a driver that has any, phases without one are told too, so that nobody waits for a
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
			phase := warmpool.MountFailed
			switch {
			case s.r.Mounted[m.ID].IsZero():
				phase = warmpool.MountPending
			case there && live.Phase == node.Mounted:
				phase = warmpool.MountReady
			}
			for _, p := range []warmpool.MountPhase{warmpool.MountPending, warmpool.MountReady, warmpool.MountFailed} {
				count[kindOfMount{p, driver}] += 0
			}
			count[kindOfMount{phase, driver}]++
		}
	}
	return count
}
