package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"time"

	"k8s.io/utils/clock"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/kube/keyring"
)

// FitterConfig is what a Fitter needs.
type FitterConfig struct {
	// Keys and Agents are required.
	Keys   keyring.Keys
	Agents Agents
	// Clock is the real one when nil.
	Clock clock.PassiveClock
}

// Fitter fits out sandboxes over their pods' addresses: the daemon in the sandbox and the agent beside it. It is used for starting
// a claimed sandbox and for repairing one.
type Fitter struct {
	keys   keyring.Keys
	agents Agents
	signer *initialize.Signer
	client *http.Client
	clock  clock.PassiveClock
}

const (
	// idleDaemons bounds the connections that are kept to daemons; each sandbox has one.
	idleDaemons = 4096
	idleTime    = 10 * time.Minute
	// dialTime bounds connecting to a pod. One that takes longer is as good as unreachable.
	dialTime = 3 * time.Second
	// initTime bounds one initialisation.
	initTime = 5 * time.Second
)

// NewFitter makes a Fitter.
func NewFitter(cfg FitterConfig) (*Fitter, error) {
	if cfg.Agents == nil {
		return nil, errors.New("kube: Agents are needed; nothing else publishes volumes")
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	signer, err := cfg.Keys.Signer(cfg.Clock)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: dialTime}
	return &Fitter{keys: cfg.Keys, agents: cfg.Agents, signer: signer, clock: cfg.Clock, client: &http.Client{Transport: &http.Transport{
		DialContext: dialer.DialContext, DisableCompression: true,
		MaxIdleConns: idleDaemons, MaxIdleConnsPerHost: 2, IdleConnTimeout: idleTime,
	}}}, nil
}

// Init initialises a claimed sandbox's daemon as its owner's: with the claim's token, and with the environment of the template and
// of the claim. It may be repeated. initialize.ErrRefused says that the daemon is somebody else's.
func (f *Fitter) Init(ctx context.Context, sb *v1alpha1.Sandbox, env map[string]string) error {
	claim := sb.Spec.Claim
	if claim == nil {
		return fmt.Errorf("initialise %s: it is not claimed", sb.Name)
	}
	url, err := daemon(sb)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, initTime)
	defer cancel()
	now := f.clock.Now()
	req := initialize.Request{
		AccessToken: f.keys.Token(idOf(sb), claim.Nonce).Reveal(), EnvVars: environment(sb, env), DefaultUser: "user", Timestamp: &now,
	}
	_, err = initialize.Init(ctx, f.client, url, string(idOf(sb)), req, f.signer)
	if err != nil && !errors.Is(err, initialize.ErrRefused) && ctx.Err() == nil {
		// A connection that was kept may have ended in the moment it was used. To initialise twice is the same as once.
		_, err = initialize.Init(ctx, f.client, url, string(idOf(sb)), req, f.signer)
	}
	return err
}

// environment is what every command of a sandbox starts with: the plain variables of its template, the claim's, and those that
// E2B's sandboxes have.
func environment(sb *v1alpha1.Sandbox, claimed map[string]string) map[string]string {
	out := map[string]string{}
	if t := sb.Spec.Template; t != nil && len(t.Spec.Containers) > 0 {
		for _, v := range t.Spec.Containers[0].Env {
			if v.ValueFrom == nil {
				out[v.Name] = v.Value
			}
		}
	}
	maps.Copy(out, claimed)
	out["E2B_SANDBOX"] = "true"
	out["E2B_SANDBOX_ID"] = string(idOf(sb))
	out["E2B_TEMPLATE_ID"] = sb.Labels[v1alpha1.LabelPool]
	return out
}

// Env is the environment of a sandbox's claim.
func (f *Fitter) Env(sb *v1alpha1.Sandbox) (map[string]string, error) {
	if sb.Spec.Claim == nil {
		return nil, nil
	}
	return f.keys.Open(idOf(sb), sb.Spec.Claim.Nonce, sb.Spec.Claim.SealedEnv)
}

// Publish mounts m into the sandbox.
func (f *Fitter) Publish(ctx context.Context, sb *v1alpha1.Sandbox, m mount.Mount) error {
	a, err := f.agent(sb)
	if err != nil {
		return err
	}
	return a.Publish(ctx, m)
}

// Unpublish unmounts what the status tells of.
func (f *Fitter) Unpublish(ctx context.Context, sb *v1alpha1.Sandbox, m v1alpha1.MountStatus) error {
	a, err := f.agent(sb)
	if err != nil {
		return err
	}
	return a.Unpublish(ctx, identity(m))
}

// UnpublishIdle unmounts a volume that nobody uses; one in use is node.ErrInUse.
func (f *Fitter) UnpublishIdle(ctx context.Context, sb *v1alpha1.Sandbox, m v1alpha1.MountStatus) error {
	a, err := f.agent(sb)
	if err != nil {
		return err
	}
	return a.UnpublishIdle(ctx, identity(m))
}

// Health says how a mount is.
func (f *Fitter) Health(ctx context.Context, sb *v1alpha1.Sandbox, m v1alpha1.MountStatus) (node.Health, error) {
	a, err := f.agent(sb)
	if err != nil {
		return node.Health{}, err
	}
	return a.Health(ctx, identity(m))
}

func identity(m v1alpha1.MountStatus) node.Identity {
	return node.Identity{VolumeHandle: m.VolumeHandle, Container: m.Container, Target: m.Path}
}

// Warm connects to a sandbox that will soon be claimed. What fails is found out when it matters.
func (f *Fitter) Warm(ctx context.Context, sb *v1alpha1.Sandbox) {
	url, err := daemon(sb)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	if r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/health", nil); err == nil {
		if res, err := f.client.Do(r); err == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 4<<10)) // a connection is kept when its answer was read
			_ = res.Body.Close()
		}
	}
	if mountable(sb) {
		f.agents.Warm(ctx, string(sb.UID), agentAddr(sb))
	}
}

// Drop closes the connection to a sandbox's agent.
func (f *Fitter) Drop(sb *v1alpha1.Sandbox) { f.agents.Drop(string(sb.UID)) }

// metrics is the body of the daemon's GET /metrics.
type metrics struct {
	Timestamp  int64   `json:"ts"`
	CPUCount   int     `json:"cpu_count"`
	CPUUsedPct float64 `json:"cpu_used_pct"`
	MemTotal   int64   `json:"mem_total"`
	MemUsed    int64   `json:"mem_used"`
	MemCache   int64   `json:"mem_cache"`
	DiskUsed   int64   `json:"disk_used"`
	DiskTotal  int64   `json:"disk_total"`
}

// Usage asks a sandbox's daemon what the sandbox uses now.
func (f *Fitter) Usage(ctx context.Context, sb *v1alpha1.Sandbox) (warmpool.Usage, error) {
	url, err := daemon(sb)
	if err != nil {
		return warmpool.Usage{}, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", nil)
	if err != nil {
		return warmpool.Usage{}, err
	}
	r.Header.Set(initialize.Header, f.keys.Token(idOf(sb), sb.Spec.Claim.Nonce).Reveal())
	res, err := f.client.Do(r)
	if err != nil {
		return warmpool.Usage{}, fmt.Errorf("metrics of %s: %w", sb.Name, err)
	}
	defer func() { _ = res.Body.Close() }()
	var m metrics
	if res.StatusCode != http.StatusOK {
		return warmpool.Usage{}, fmt.Errorf("metrics of %s: the daemon answered %d", sb.Name, res.StatusCode)
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&m); err != nil {
		return warmpool.Usage{}, fmt.Errorf("metrics of %s: %w", sb.Name, err)
	}
	at := f.clock.Now()
	if m.Timestamp > 0 {
		at = time.Unix(m.Timestamp, 0)
	}
	return warmpool.Usage{
		At: at, CPUCount: cmp.Or(m.CPUCount, 1), CPUPercent: m.CPUUsedPct, MemUsed: m.MemUsed, MemTotal: m.MemTotal, MemCache: m.MemCache,
		DiskUsed: m.DiskUsed, DiskTotal: m.DiskTotal,
	}, nil
}

func (f *Fitter) agent(sb *v1alpha1.Sandbox) (Agent, error) {
	if sb.Status.SandboxIP == "" {
		return nil, fmt.Errorf("%w: %w", channel.ErrUnreachable, errNoAddress)
	}
	return f.agents.Agent(string(sb.UID), agentAddr(sb)), nil
}

var errNoAddress = errors.New("its pod has no address")

func daemon(sb *v1alpha1.Sandbox) (string, error) {
	if sb.Status.SandboxIP == "" {
		return "", fmt.Errorf("reach %s: %w", sb.Name, errNoAddress)
	}
	return "http://" + net.JoinHostPort(sb.Status.SandboxIP, strconv.Itoa(v1alpha1.EnvdPort)), nil
}

func agentAddr(sb *v1alpha1.Sandbox) string {
	return net.JoinHostPort(sb.Status.SandboxIP, strconv.Itoa(v1alpha1.AgentPort))
}

// mountable says whether a sandbox has an agent.
func mountable(sb *v1alpha1.Sandbox) bool {
	for _, r := range sb.Spec.Runtimes {
		if v1alpha1.MountsVolumes(r.Name) {
			return true
		}
	}
	return false
}
