package cmd_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/yaml"

	"github.com/sandgate-dev/sandgate/cmd/internal/measure"
	"github.com/sandgate-dev/sandgate/gateway/observe"
	"github.com/sandgate-dev/sandgate/warmpool/controller/injection"
	"github.com/sandgate-dev/sandgate/warmpool/controller/sandbox"
	"github.com/sandgate-dev/sandgate/warmpool/controller/sandboxset"
	"github.com/sandgate-dev/sandgate/warmpool/local"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest/chart"
)

var (
	description = regexp.MustCompile(`fqName: "([^"]*)".*constLabels: \{([^}]*)\}, variableLabels: \{([^}]*)\}`)
	constant    = regexp.MustCompile(`(\w+)="`)
)

// told are the metrics of all programs, with the labels of each.
func told(t *testing.T) map[string][]string {
	t.Helper()
	gateway := measure.Registry("gateway")
	_, err := observe.New(gateway)
	require.NoError(t, err)
	out := map[string][]string{}
	for _, from := range []prometheus.Collector{
		gateway, metrics.Registry.(prometheus.Collector), observe.Pools(nil), (&local.Backend{}).Mounts(),
		sandbox.Mounts(nil, nil), sandboxset.Pools(nil, nil), injection.Valid(&injection.Current{}),
	} {
		descs := make(chan *prometheus.Desc)
		go func() { from.Describe(descs); close(descs) }()
		for d := range descs {
			m := description.FindStringSubmatch(d.String())
			require.NotNil(t, m, d)
			labels := strings.FieldsFunc(m[3], func(r rune) bool { return r == ',' })
			for _, c := range constant.FindAllStringSubmatch(m[2], -1) {
				labels = append(labels, c[1])
			}
			slices.Sort(labels)
			if have, ok := out[m[1]]; ok {
				require.Equal(t, have, labels, "%s has the same labels whoever tells it", m[1])
			}
			out[m[1]] = labels
		}
	}
	return out
}

func ours(all map[string][]string) map[string][]string {
	out := map[string][]string{}
	for name, labels := range all {
		if strings.HasPrefix(name, "sandgate_") {
			out[name] = labels
		}
	}
	return out
}

// queries are the expressions of the alerts and the dashboard that the chart has.
func queries(t *testing.T) (out []string) {
	t.Helper()
	read := func(file string) []byte {
		text, err := os.ReadFile(filepath.Join(chart.Dir(t), "files", file))
		require.NoError(t, err)
		return text
	}
	var alerts struct {
		Groups []struct{ Rules []struct{ Expr string } }
	}
	require.NoError(t, yaml.Unmarshal(read("alerts.yaml"), &alerts))
	for _, r := range alerts.Groups[0].Rules {
		out = append(out, r.Expr)
	}
	var board struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	require.NoError(t, json.Unmarshal(read("dashboard.json"), &board))
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			out = append(out, target.Expr)
		}
	}
	require.Greater(t, len(out), 20)
	return out
}

var (
	selector = regexp.MustCompile(`\b([a-z]+(?:_[a-z]+)+)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)(?:=~|!~|!=|=)"`)
	grouping = regexp.MustCompile(`\b(?:by|on|group_left) \(([^)]*)\)`)
	suffix   = regexp.MustCompile(`_(bucket|count|sum)$`)
)

// faults are the names in a query that no program tells.
func faults(query string, all map[string][]string) (out []string) {
	grouped := []string{}
	for _, g := range grouping.FindAllStringSubmatch(query, -1) {
		grouped = append(grouped, strings.Split(g[1], ", ")...)
	}
	known := []string{"instance", "le"} // of Prometheus itself
	for _, m := range selector.FindAllStringSubmatch(grouping.ReplaceAllString(query, ""), -1) {
		if m[1] == "histogram_quantile" {
			continue
		}
		labels, ok := all[suffix.ReplaceAllString(m[1], "")]
		if !ok {
			out = append(out, m[1])
		}
		known = append(known, labels...)
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(labels, l[1]) {
				out = append(out, m[1]+"{"+l[1]+"}")
			}
		}
	}
	for _, label := range grouped {
		if !slices.Contains(known, label) {
			out = append(out, "by "+label)
		}
	}
	return out
}

func TestAlertsAndDashboardAskForWhatIsTold(t *testing.T) {
	all := told(t)
	asked := ""
	for _, q := range queries(t) {
		require.Empty(t, faults(q, all), q)
		asked += q
	}
	for name := range ours(all) {
		require.Contains(t, asked, name, "nobody looks at it")
	}
	require.Equal(t, []string{"sandgate_pool_full", "sandgate_mounts{state}", "by colour"},
		faults(`sum by (colour) (rate(sandgate_pool_full[5m])) / sandgate_mounts{state="x",phase="y"}`, all), "the checker itself must be able to fail")
}

// What Prometheus' operator and Grafana's sidecar take up is what the files say, and it is not there unasked.
func TestMonitoringIsMadeOnRequest(t *testing.T) {
	require.NotContains(t, string(chart.Render(t, "")), "monitoring.coreos.com")
	var monitor, rule struct {
		Kind     string
		Metadata struct{ Labels map[string]string }
		Spec     map[string]any
	}
	text := string(chart.Render(t, "metrics.yaml", "--set", "metrics.podMonitor.enabled=true,metrics.podMonitor.labels.release=prom,metrics.alerts.enabled=true,metrics.dashboard.enabled=true"))
	docs := strings.Split(text, "\n---\n")
	require.Len(t, docs, 3)
	for _, doc := range docs {
		switch {
		case strings.Contains(doc, "kind: PodMonitor"):
			require.NoError(t, yaml.Unmarshal([]byte(doc), &monitor))
		case strings.Contains(doc, "kind: PrometheusRule"):
			require.NoError(t, yaml.Unmarshal([]byte(doc), &rule))
		}
	}
	require.Equal(t, "prom", monitor.Metadata.Labels["release"])
	require.Contains(t, rule.Spec, "groups")
	require.Contains(t, text, "{{ $labels.pool }}", "what Prometheus fills in is left to it")
	require.Contains(t, text, `"legendFormat": "{{namespace}}/{{pool}}"`)
}
