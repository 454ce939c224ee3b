package e2b

import (
	"maps"
	"net"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// clientID is a field that SDKs insist on and nobody uses.
const clientID = "sandgate"

// sandboxView answers create and connect.
type sandboxView struct {
	TemplateID         string  `json:"templateID"`
	SandboxID          string  `json:"sandboxID"`
	ClientID           string  `json:"clientID"`
	EnvdVersion        string  `json:"envdVersion"`
	Alias              string  `json:"alias,omitempty"`
	EnvdAccessToken    string  `json:"envdAccessToken,omitempty"`
	TrafficAccessToken *string `json:"trafficAccessToken"`
	Domain             string  `json:"domain"`
}

// listedView is a sandbox in a list.
type listedView struct {
	TemplateID   string            `json:"templateID"`
	Alias        string            `json:"alias,omitempty"`
	SandboxID    string            `json:"sandboxID"`
	ClientID     string            `json:"clientID"`
	StartedAt    string            `json:"startedAt"`
	EndAt        string            `json:"endAt"`
	EnvdVersion  string            `json:"envdVersion"`
	CPUCount     int               `json:"cpuCount"`
	MemoryMB     int               `json:"memoryMB"`
	DiskSizeMB   int               `json:"diskSizeMB"`
	State        string            `json:"state"`
	Metadata     map[string]string `json:"metadata"`
	VolumeMounts []volumeMount     `json:"volumeMounts"`
}

// detailView is one sandbox as its owner sees it.
type detailView struct {
	listedView
	EnvdAccessToken     string    `json:"envdAccessToken,omitempty"`
	Domain              string    `json:"domain"`
	AllowInternetAccess bool      `json:"allowInternetAccess"`
	Lifecycle           lifecycle `json:"lifecycle"`
}

type lifecycle struct {
	OnTimeout  string `json:"onTimeout"`
	AutoResume bool   `json:"autoResume"`
}

type volumeMount struct {
	Name string `json:"name"`
	Path string `json:"path"`
}

// mountView is a mount's intent, in the words of csi-volume-config, and what is known of it.
type mountView struct {
	MountID   string         `json:"mountID"`
	PVName    string         `json:"pvName,omitempty"`
	PVCName   string         `json:"pvcName,omitempty"`
	Volume    string         `json:"poolVolume,omitempty"`
	Ephemeral *ephemeralView `json:"ephemeral,omitempty"` // a volume in the sandbox's memory
	MountPath string         `json:"mountPath"`
	SubPath   string         `json:"subPath,omitempty"`
	ReadOnly  bool           `json:"readOnly"`
	Container string         `json:"container"`
	Phase     string         `json:"phase"`
	Verdict   string         `json:"verdict,omitempty"`
	Message   string         `json:"message,omitempty"`
	MountedAt string         `json:"mountedAt,omitempty"`
}

type ephemeralView struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // bytes
	Inodes int64  `json:"inodes,omitempty"`
}

// unmountView tells of a volume that is gone with a doubt.
type unmountView struct {
	MountID          string `json:"mountID"`
	DataMayBeMissing bool   `json:"dataMayBeMissing"`
	Message          string `json:"message"`
}

// metric is one sample of a sandbox's use.
type metric struct {
	Timestamp     string  `json:"timestamp"`
	TimestampUnix int64   `json:"timestampUnix"`
	CPUCount      int     `json:"cpuCount"`
	CPUUsedPct    float64 `json:"cpuUsedPct"`
	MemUsed       int64   `json:"memUsed"`
	MemTotal      int64   `json:"memTotal"`
	MemCache      int64   `json:"memCache"`
	DiskUsed      int64   `json:"diskUsed"`
	DiskTotal     int64   `json:"diskTotal"`
}

func (s *server) sandbox(c echo.Context, sb warmpool.Sandbox) sandboxView {
	return sandboxView{
		TemplateID: sb.Template, SandboxID: string(sb.ID), ClientID: clientID, EnvdVersion: sb.EnvdVersion, Alias: alias(sb),
		EnvdAccessToken: sb.Token.Reveal(), Domain: s.domainOf(c.Request()),
	}
}

func (s *server) detail(c echo.Context, sb warmpool.Sandbox) detailView {
	return detailView{
		listedView: listedOf(sb), EnvdAccessToken: sb.Token.Reveal(), Domain: s.domainOf(c.Request()),
		AllowInternetAccess: sb.AllowInternet, Lifecycle: lifecycle{OnTimeout: "kill"},
	}
}

func listed(all []warmpool.Sandbox) []listedView {
	out := make([]listedView, 0, len(all))
	for _, sb := range all {
		out = append(out, listedOf(sb))
	}
	return out
}

func listedOf(sb warmpool.Sandbox) listedView {
	v := listedView{
		TemplateID: sb.Template, Alias: alias(sb), SandboxID: string(sb.ID), ClientID: clientID,
		StartedAt: instant(sb.StartedAt), EndAt: instant(sb.EndAt), EnvdVersion: sb.EnvdVersion,
		CPUCount: max(1, sb.Resources.CPUCount), MemoryMB: sb.Resources.MemoryMB, DiskSizeMB: sb.Resources.DiskMB,
		State: "running", Metadata: map[string]string{}, VolumeMounts: []volumeMount{},
	}
	maps.Copy(v.Metadata, sb.Metadata)
	for _, m := range sb.Mounts {
		v.VolumeMounts = append(v.VolumeMounts, volumeMount{Name: m.Volume, Path: m.Target})
	}
	return v
}

func alias(sb warmpool.Sandbox) string {
	if len(sb.Aliases) == 0 {
		return sb.Template
	}
	return sb.Aliases[0]
}

func mountsOf(sb warmpool.Sandbox) []mountView {
	out := make([]mountView, 0, len(sb.Mounts))
	for _, m := range sb.Mounts {
		out = append(out, mountOf(sb, m))
	}
	return out
}

func mountOf(sb warmpool.Sandbox, m warmpool.MountStatus) mountView {
	v := mountView{
		MountID: m.ID, MountPath: m.Target, SubPath: m.SubPath, ReadOnly: m.ReadOnly, Container: m.Container,
		Phase: string(m.Phase), Verdict: string(m.Verdict), Message: m.Message,
	}
	switch {
	case m.IsEphemeral():
		v.Ephemeral = &ephemeralView{Name: m.Volume, Size: m.Ephemeral.Size, Inodes: m.Ephemeral.Inodes}
	case m.Kind == mount.KindClaim:
		v.PVCName = m.Volume
	case m.Kind == mount.KindPool:
		v.Volume = m.Volume
	default:
		v.PVName = m.Volume
	}
	if c := sb.MadeFrom.Containers; v.Container == "" && len(c) > 0 {
		v.Container = c[0].Name
	}
	if !m.MountedAt.IsZero() {
		v.MountedAt = instant(m.MountedAt)
	}
	return v
}

func metricOf(u warmpool.Usage) metric {
	return metric{
		Timestamp: instant(u.At), TimestampUnix: u.At.Unix(), CPUCount: u.CPUCount, CPUUsedPct: u.CPUPercent,
		MemUsed: u.MemUsed, MemTotal: u.MemTotal, MemCache: u.MemCache, DiskUsed: u.DiskUsed, DiskTotal: u.DiskTotal,
	}
}

// instant writes a time as every SDK's parser reads it.
func instant(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

// domainOf is the domain that a sandbox's host names end in. An SDK without one would send its user to E2B's cloud.
func (s *server) domainOf(r *http.Request) string {
	if s.domain != "" {
		return s.domain
	}
	// Every name below localhost is this machine (RFC 6761), so that ports can be opened without any DNS.
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if _, port, err := net.SplitHostPort(local.String()); err == nil {
			return "localhost:" + port
		}
	}
	return "localhost"
}
