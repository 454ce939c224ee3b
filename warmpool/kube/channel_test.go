package kube_test

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/kube"
)

// volumes is an agent's node service that keeps what it is asked.
type volumes struct {
	csi.UnimplementedNodeServer

	mu   sync.Mutex
	seen []*csi.NodePublishVolumeRequest
}

func (v *volumes) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seen = append(v.seen, r)
	if r.VolumeId == "wrong" {
		return nil, status.Error(codes.PermissionDenied, "the storage refuses these credentials")
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// Volumes go to the agent of the very sandbox, over the channel as it is in a cluster.
func TestVolumesGoOverTheChannelToTheSandboxsOwnAgent(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	authority, err := channel.NewAuthority(now)
	require.NoError(t, err)
	node := &volumes{}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	t.Cleanup(func() { cancel(); work.Wait() })
	stranger := false // serves with another sandbox's certificate
	w.served = func(sb *v1alpha1.Sandbox, ip string) {
		uid := string(sb.UID)
		if stranger {
			uid = "somebody-elses"
		}
		server, err := channel.NewServer(channel.ServerConfig{
			Identity: func() (channel.Identity, error) { return authority.Agent(uid, now) }, Node: node, Version: "test",
			HandedOver: func() bool { return true }, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			panic(err)
		}
		l, err := net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(v1alpha1.AgentPort)))
		if err != nil {
			panic(err)
		}
		work.Go(func() { _ = server.Serve(ctx, l) })
	}
	pool, err := channel.NewPool(channel.PoolConfig{
		Identity: sync.OnceValues(func() (channel.Identity, error) { return authority.Client(channel.Gateway, now) }), Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	fitter, err := kube.NewFitter(kube.FitterConfig{Keys: w.keys, Agents: kube.Channel(pool)})
	require.NoError(t, err)
	w.set("base", 2)
	b := w.replica(func(c *kube.Config) { c.Fitter = fitter })
	w.stocked(b, "base", 2)
	begin := func(template, handle string) (warmpool.Sandbox, error) {
		s, err := b.Claim(t.Context(), order(template))
		require.NoError(t, err)
		return b.Start(t.Context(), s.ID, warmpool.Start{Mounts: []mount.Mount{{
			Spec: mount.Spec{ID: "m", Volume: "pv", Target: "/data"}, Driver: mount.DriverTmpfs, VolumeHandle: handle, Secret: mount.Secret{"k": "v"},
		}}})
	}
	_, err = begin("base", "handle")
	require.NoError(t, err)
	require.Len(t, node.seen, 1)
	require.Equal(t, "/data", node.seen[0].TargetPath)
	require.Equal(t, "v", node.seen[0].Secrets["k"])
	_, err = begin("base", "wrong")
	require.Equal(t, warmpool.Denied, warmpool.CodeOf(err))
	require.ErrorContains(t, err, "refuses these credentials")
	require.Eventually(t, func() bool { return pool.Len() == 0 }, 10*time.Second, 10*time.Millisecond, "no connection outlives its use")

	stranger = true
	w.set("stolen", 1)
	w.stocked(b, "stolen", 1)
	_, err = begin("stolen", "handle")
	require.ErrorIs(t, err, warmpool.ErrUnreachable)
	require.Len(t, node.seen, 2, "nothing was said to the wrong agent")
}
