package channel_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

// recorder is a node that remembers what it was told.
type recorder struct {
	csi.UnimplementedNodeServer

	mu   sync.Mutex
	got  []*csi.NodePublishVolumeRequest
	fail error
	log  *slog.Logger

	taken []string // how

	panics atomic.Bool
	before func()
}

func (r *recorder) NodePublishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if r.panics.Load() {
		panic("a fault of ours")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, req)
	if r.before != nil {
		r.before()
	}
	r.log.InfoContext(ctx, "published")
	return &csi.NodePublishVolumeResponse{}, r.fail
}

func (r *recorder) NodeUnpublishVolume(context.Context, *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken = append(r.taken, "whatever")
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func (r *recorder) UnpublishIdle(context.Context, *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken = append(r.taken, "idle")
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func (r *recorder) published() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

// world is an authority and an agent of sandbox "uid-1".
type world struct {
	authority *channel.Authority
	node      *recorder
	addr      string
	ready     atomic.Bool
	identity  atomic.Pointer[channel.Identity]
	log       *bytes.Buffer
	stop      func()
}

func start(t *testing.T) *world {
	t.Helper()
	authority, err := channel.NewAuthority(time.Now())
	require.NoError(t, err)
	w := &world{authority: authority, log: &bytes.Buffer{}}
	w.node = &recorder{log: slog.New(channel.Named(slog.NewTextHandler(w.log, nil)))}
	w.ready.Store(true)
	id, err := authority.Agent("uid-1", time.Now())
	require.NoError(t, err)
	w.identity.Store(&id)
	server, err := channel.NewServer(channel.ServerConfig{
		Identity: func() (channel.Identity, error) { return *w.identity.Load(), nil },
		Node:     w.node, Version: "v9", HandedOver: w.ready.Load, Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, l) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(w.stop)
	return w
}

// pool is a client's, with an identity of an authority.
func pool(t *testing.T, identity func() (channel.Identity, error)) *channel.Pool {
	t.Helper()
	p, err := channel.NewPool(channel.PoolConfig{
		Identity: identity, Request: func(context.Context) string { return "req-7" }, Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

func client(t *testing.T, a *channel.Authority, at time.Time) func() (channel.Identity, error) {
	t.Helper()
	id, err := a.Client(channel.Gateway, at)
	require.NoError(t, err)
	return func() (channel.Identity, error) { return id, nil }
}

func volume() mount.Mount {
	return mount.Mount{
		Spec: mount.Spec{ID: "m", Volume: "v", Target: "/data"}, Driver: mount.DriverTmpfs, VolumeHandle: "h", Secret: mount.Secret{"akSecret": "canary"},
	}
}

func TestAVolumeIsPublishedOverTheChannel(t *testing.T) {
	w := start(t)
	a := pool(t, client(t, w.authority, time.Now())).Agent("uid-1", w.addr)
	state, err := a.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, channel.State{Version: "v9", Protocol: channel.Protocol, HandedOver: true}, state)
	require.NoError(t, a.Publish(t.Context(), volume()))
	require.Equal(t, "h", w.node.got[0].VolumeId)
	require.Contains(t, w.log.String(), "request=req-7")
	require.NotContains(t, w.log.String(), "canary")
}

func TestNoSecretGoesToWhoIsNotTheSandboxesAgent(t *testing.T) {
	w := start(t)
	other, err := channel.NewAuthority(time.Now())
	require.NoError(t, err)
	for name, c := range map[string]struct {
		uid      string
		identity func() (channel.Identity, error)
	}{
		"another sandbox's agent":           {"uid-2", client(t, w.authority, time.Now())},
		"an agent of another installation":  {"uid-1", client(t, other, time.Now())},
		"with a certificate that has ended": {"uid-1", client(t, w.authority, time.Now().Add(-100*24*time.Hour))},
	} {
		t.Run(name, func(t *testing.T) {
			err := pool(t, c.identity).Agent(c.uid, w.addr).Publish(t.Context(), volume())
			require.ErrorIs(t, err, channel.ErrUnreachable)
			require.Zero(t, w.node.published())
		})
	}
}

func TestAnAgentsCertificateOpensNoOtherAgent(t *testing.T) {
	w := start(t)
	id, err := w.authority.Agent("uid-2", time.Now())
	require.NoError(t, err)
	err = pool(t, func() (channel.Identity, error) { return id, nil }).Agent("uid-1", w.addr).Publish(t.Context(), volume())
	require.ErrorIs(t, err, channel.ErrUnreachable)
	require.Zero(t, w.node.published())
}

func TestStrangersGetProbesAndNothingElse(t *testing.T) {
	w := start(t)
	for name, h2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2, as the kubelet": true} {
		t.Run(name, func(t *testing.T) {
			transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: h2} //nolint:gosec // as the kubelet does
			defer transport.CloseIdleConnections()
			c := &http.Client{Transport: transport}
			get := func(path string) int {
				res, err := c.Get("https://" + w.addr + path)
				require.NoError(t, err)
				_, _ = io.Copy(io.Discard, res.Body)
				require.NoError(t, res.Body.Close())
				return res.StatusCode
			}
			w.ready.Store(true)
			require.Equal(t, 200, get("/livez"))
			require.Equal(t, 200, get("/readyz"))
			w.ready.Store(false)
			require.Equal(t, 503, get("/readyz"))
			require.Equal(t, 200, get("/livez"))
			require.Equal(t, 404, get("/metrics"))
			res, err := c.Post("https://"+w.addr+"/csi.v1.Node/NodePublishVolume", "application/grpc", http.NoBody)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			require.Equal(t, 404, res.StatusCode)
		})
	}
	require.Zero(t, w.node.published())
}

func TestErrorsKeepTheirKinds(t *testing.T) {
	w := start(t)
	a := pool(t, client(t, w.authority, time.Now())).Agent("uid-1", w.addr)
	for name, c := range map[string]struct {
		code codes.Code
		want error
	}{
		"invalid":          {codes.InvalidArgument, mount.ErrInvalid},
		"denied":           {codes.PermissionDenied, mount.ErrDenied},
		"not found":        {codes.NotFound, mount.ErrNotFound},
		"the storage's":    {codes.Unavailable, mount.ErrUnavailable},
		"a conflict":       {codes.AlreadyExists, node.ErrConflict},
		"data loss":        {codes.DataLoss, node.ErrDataLoss},
		"in use":           {codes.Aborted, node.ErrInUse},
		"an unknown call":  {codes.Unimplemented, channel.ErrTooOld},
		"no namespace yet": {codes.FailedPrecondition, channel.ErrNotReady},
	} {
		t.Run(name, func(t *testing.T) {
			w.node.mu.Lock()
			w.node.fail = status.Error(c.code, "text")
			w.node.mu.Unlock()
			require.ErrorIs(t, a.Publish(t.Context(), volume()), c.want)
		})
	}
}

func TestAnUnpublishSaysWhetherAVolumeInUseIsTaken(t *testing.T) {
	w := start(t)
	a := pool(t, client(t, w.authority, time.Now())).Agent("uid-1", w.addr)
	require.NoError(t, a.UnpublishIdle(t.Context(), node.Identity{VolumeHandle: "h", Target: "/data"}))
	require.NoError(t, a.Unpublish(t.Context(), node.Identity{VolumeHandle: "h", Target: "/data"}))
	require.Equal(t, []string{"idle", "whatever"}, w.node.taken)
}

func TestAPublishBeforeTheHandOverIsRefused(t *testing.T) {
	w := start(t)
	w.ready.Store(false)
	err := pool(t, client(t, w.authority, time.Now())).Agent("uid-1", w.addr).Publish(t.Context(), volume())
	require.ErrorIs(t, err, channel.ErrNotReady)
	require.ErrorIs(t, err, channel.ErrUnreachable)
	require.Zero(t, w.node.published())
}

func TestARenewedIdentityIsUsedWithoutARestart(t *testing.T) {
	w := start(t)
	old, err := w.authority.Agent("uid-1", time.Now().Add(-100*24*time.Hour)) // has ended
	require.NoError(t, err)
	require.True(t, old.Stale(time.Now()))
	fresh := w.identity.Swap(&old)
	require.False(t, fresh.Stale(time.Now()))
	p := pool(t, client(t, w.authority, time.Now()))
	require.ErrorIs(t, p.Agent("uid-1", w.addr).Publish(t.Context(), volume()), channel.ErrUnreachable)
	w.identity.Store(fresh)
	require.Eventually(t, func() bool { return p.Agent("uid-1", w.addr).Publish(t.Context(), volume()) == nil }, 10*time.Second, 20*time.Millisecond)
}

func TestARenewedClientIsUsedWithoutARestart(t *testing.T) {
	w := start(t)
	var now atomic.Pointer[channel.Identity]
	now.Store(ptr(must(w.authority.Client(channel.Gateway, time.Now().Add(-100*24*time.Hour))))) // has ended
	p := pool(t, func() (channel.Identity, error) { return *now.Load(), nil })
	a := p.Agent("uid-1", w.addr)
	require.ErrorIs(t, a.Publish(t.Context(), volume()), channel.ErrUnreachable)
	now.Store(ptr(must(w.authority.Client(channel.Gateway, time.Now()))))
	require.Eventually(t, func() bool { return a.Publish(t.Context(), volume()) == nil }, 10*time.Second, 20*time.Millisecond)

	// A new authority, on both sides: the connection of the old one is not used any more.
	fresh, err := channel.NewAuthority(time.Now())
	require.NoError(t, err)
	now.Store(ptr(must(fresh.Client(channel.Gateway, time.Now()))))
	require.ErrorIs(t, a.Publish(t.Context(), volume()), channel.ErrUnreachable)
	w.identity.Store(ptr(must(fresh.Agent("uid-1", time.Now()))))
	require.Eventually(t, func() bool { return a.Publish(t.Context(), volume()) == nil }, 10*time.Second, 20*time.Millisecond)
}

func TestAnAgentThatIsTooOldSaysWhatToChange(t *testing.T) {
	w := start(t)
	for name, c := range map[string]struct {
		service csi.IdentityServer
	}{
		"it tells no protocol":      {plugin{info: &csi.GetPluginInfoResponse{Name: "agent", VendorVersion: "v0"}}},
		"it tells an older one":     {plugin{info: &csi.GetPluginInfoResponse{Name: "agent", VendorVersion: "v0", Manifest: map[string]string{"protocol": "0"}}}},
		"it does not know the call": {csi.UnimplementedIdentityServer{}},
	} {
		t.Run(name, func(t *testing.T) {
			s := grpc.NewServer(grpc.Creds(credentials.NewTLS(serverConfig(t, *w.identity.Load()))))
			csi.RegisterIdentityServer(s, c.service)
			csi.RegisterNodeServer(s, w.node)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			go func() { _ = s.Serve(l) }()
			t.Cleanup(s.Stop)
			err = pool(t, client(t, w.authority, time.Now())).Agent("uid-1", l.Addr().String()).Publish(t.Context(), volume())
			require.ErrorIs(t, err, channel.ErrTooOld)
			require.ErrorContains(t, err, "sandbox-injection-config")
			require.Zero(t, w.node.published())
		})
	}
}

func TestAnAgentThatWouldNotAskWhetherAVolumeIsInUseIsNotAsked(t *testing.T) {
	w := start(t)
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(serverConfig(t, *w.identity.Load()))))
	csi.RegisterIdentityServer(s, plugin{info: &csi.GetPluginInfoResponse{VendorVersion: "v1", Manifest: map[string]string{"protocol": "1"}}})
	csi.RegisterNodeServer(s, w.node)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	a := pool(t, client(t, w.authority, time.Now())).Agent("uid-1", l.Addr().String())
	require.NoError(t, a.Publish(t.Context(), volume()))
	require.ErrorIs(t, a.UnpublishIdle(t.Context(), node.Identity{VolumeHandle: "h", Target: "/data"}), channel.ErrTooOld)
	require.Empty(t, w.node.taken)
}

type plugin struct {
	csi.UnimplementedIdentityServer

	info *csi.GetPluginInfoResponse
}

func (p plugin) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return p.info, nil
}

func TestACallWhoseConnectionIsLostIsMadeAgainOnce(t *testing.T) {
	w := start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	var first atomic.Pointer[net.TCPConn]
	go func() { // a way to the agent that breaks
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", w.addr)
			if err != nil {
				return
			}
			first.CompareAndSwap(nil, in.(*net.TCPConn))
			go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
			go func() { _, _ = io.Copy(in, out); _ = in.Close() }()
		}
	}()
	a := pool(t, client(t, w.authority, time.Now())).Agent("uid-1", l.Addr().String())
	_, err = a.State(t.Context())
	require.NoError(t, err)
	w.node.before = func() { // in the middle of the first publish
		w.node.before = nil
		_ = first.Load().Close()
		<-time.After(100 * time.Millisecond)
	}
	require.NoError(t, a.Publish(t.Context(), volume()))
	require.Equal(t, 2, w.node.published())
}

func TestWithoutTheNamespaceNothingIsToldOfVolumes(t *testing.T) {
	w := start(t)
	a := pool(t, client(t, w.authority, time.Now())).Agent("uid-1", w.addr)
	w.ready.Store(false)
	_, err := a.Health(t.Context(), node.Identity{VolumeHandle: "h", Target: "/data"})
	require.ErrorIs(t, err, channel.ErrNotReady)
	require.NotErrorIs(t, err, mount.ErrNotFound, "else somebody would mount it again")
	state, err := a.State(t.Context())
	require.NoError(t, err)
	require.False(t, state.HandedOver)
}

// goroutines are the stacks of all there are.
func goroutines() string {
	var out strings.Builder
	_ = pprof.Lookup("goroutine").WriteTo(&out, 1)
	return out.String()
}

func TestClosingAPoolEndsAllThatItHasBegun(t *testing.T) {
	w := start(t)
	p, err := channel.NewPool(channel.PoolConfig{Identity: client(t, w.authority, time.Now()), Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	for i := range 5 { // one is the sandbox's, the others are refused and tried again by gRPC
		_, _ = p.Warm(t.Context(), fmt.Sprintf("uid-%d", i), w.addr)
	}
	require.Equal(t, 5, p.Len())
	require.Contains(t, goroutines(), "grpc/internal/transport")
	p.Close()
	require.Zero(t, p.Len())
	require.Eventually(t, func() bool {
		now := goroutines()
		return !strings.Contains(now, "grpc/internal/transport") && !strings.Contains(now, "grpc.(*addrConn)") && !strings.Contains(now, "grpc.newClientStream")
	}, 20*time.Second, 10*time.Millisecond)
	require.ErrorIs(t, p.Agent("uid-1", w.addr).Publish(t.Context(), volume()), channel.ErrUnreachable)
}

func TestConnectionsAheadOfTimeAreBounded(t *testing.T) {
	w := start(t)
	p, err := channel.NewPool(channel.PoolConfig{Identity: client(t, w.authority, time.Now()), MaxWarm: 1, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(p.Close)
	_, err = p.Warm(t.Context(), "uid-1", w.addr)
	require.NoError(t, err)
	_, err = p.Warm(t.Context(), "uid-2", w.addr)
	require.NoError(t, err, "nobody is bothered with it")
	require.Equal(t, 1, p.Len())
	require.NoError(t, p.Agent("uid-1", w.addr).Publish(t.Context(), volume()))
}

func TestASandboxWithANewAddressIsReachedThere(t *testing.T) {
	w := start(t)
	p := pool(t, client(t, w.authority, time.Now()))
	_, err := p.Agent("uid-1", "127.0.0.1:1").State(t.Context())
	require.ErrorIs(t, err, channel.ErrUnreachable)
	_, err = p.Agent("uid-1", w.addr).State(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, p.Len())
}

func TestWhatIsUnderWayHasEndedWhenServeReturns(t *testing.T) {
	w := start(t)
	begun := make(chan struct{})
	var over atomic.Bool
	w.node.before = func() {
		close(begun)
		<-time.After(300 * time.Millisecond) // undoing takes time
		over.Store(true)
	}
	go func() {
		_ = pool(t, client(t, w.authority, time.Now())).Agent("uid-1", w.addr).Publish(context.Background(), volume())
	}()
	<-begun
	w.stop()
	require.True(t, over.Load())
}

func TestADroppedSandboxIsNotDialledAgain(t *testing.T) {
	w := start(t)
	p := pool(t, client(t, w.authority, time.Now()))
	a := p.Agent("uid-1", w.addr)
	require.NoError(t, a.Publish(t.Context(), volume()))
	p.Drop("uid-1")
	require.Zero(t, p.Len())
	require.ErrorIs(t, a.Publish(t.Context(), volume()), channel.ErrUnreachable)
}

func TestAKeyDoesNotPrintItself(t *testing.T) {
	a, err := channel.NewAuthority(time.Now())
	require.NoError(t, err)
	key, err := a.Key()
	require.NoError(t, err)
	text := fmt.Sprintf("%v %s %q %x %#v", key, key, key, key, key)
	raw, err := json.Marshal(map[string]any{"k": key})
	require.NoError(t, err)
	require.NotContains(t, text+string(raw), "PRIVATE")
	again, err := channel.LoadAuthority(a.Cert(), key)
	require.NoError(t, err)
	require.Equal(t, a.Cert(), again.Cert())
	other, err := channel.NewAuthority(time.Now())
	require.NoError(t, err)
	_, err = channel.LoadAuthority(other.Cert(), key)
	require.ErrorContains(t, err, "do not belong together")
}
