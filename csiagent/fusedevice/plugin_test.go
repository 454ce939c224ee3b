//go:build linux

package fusedevice_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/sandgate-dev/sandgate/csiagent/fusedevice"
)

// kubelet is the registration end of one.
type kubelet struct {
	api.UnimplementedRegistrationServer

	registered chan *api.RegisterRequest
	server     *grpc.Server
}

func (k *kubelet) Register(_ context.Context, r *api.RegisterRequest) (*api.Empty, error) {
	k.registered <- r
	return &api.Empty{}, nil
}

func startKubelet(t *testing.T, dir string) *kubelet {
	t.Helper()
	path := filepath.Join(dir, "kubelet.sock")
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	k := &kubelet{registered: make(chan *api.RegisterRequest, 10), server: grpc.NewServer()}
	api.RegisterRegistrationServer(k.server, k)
	go func() { _ = k.server.Serve(l) }()
	t.Cleanup(k.server.Stop)
	return k
}

func (k *kubelet) await(t *testing.T) *api.RegisterRequest {
	t.Helper()
	select {
	case r := <-k.registered:
		return r
	case <-time.After(20 * time.Second):
		require.Fail(t, "no registration")
		return nil
	}
}

func TestThePluginRegistersAndGivesTheDevice(t *testing.T) {
	dir, err := os.MkdirTemp("", "fuse-") // a socket's path must be short
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p, err := fusedevice.New(fusedevice.Config{Dir: dir, Seen: "/dev/null", Devices: 3, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	first := startKubelet(t, dir)
	go func() { done <- p.Run(ctx) }()
	r := first.await(t)
	require.Equal(t, fusedevice.Resource, r.ResourceName)

	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, r.Endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	plugin := api.NewDevicePluginClient(conn)
	watch, err := plugin.ListAndWatch(t.Context(), &api.Empty{})
	require.NoError(t, err)
	list, err := watch.Recv()
	require.NoError(t, err)
	require.Len(t, list.Devices, 3)
	require.Equal(t, api.Healthy, list.Devices[0].Health)
	given, err := plugin.Allocate(t.Context(), &api.AllocateRequest{ContainerRequests: []*api.ContainerAllocateRequest{{DevicesIds: []string{"fuse-0"}}}})
	require.NoError(t, err)
	require.Equal(t, "/dev/fuse", given.ContainerResponses[0].Devices[0].ContainerPath)
	require.Equal(t, "rw", given.ContainerResponses[0].Devices[0].Permissions)

	require.NoError(t, os.Remove(filepath.Join(dir, r.Endpoint)))
	require.Equal(t, fusedevice.Resource, first.await(t).ResourceName, "a kubelet removes the sockets of its plugins when it starts")
	first.server.Stop()
	second := startKubelet(t, dir)
	require.Equal(t, fusedevice.Resource, second.await(t).ResourceName, "a kubelet that starts anew is told again")
	cancel()
	require.NoError(t, <-done)
}

// A kubelet that is told twice in a row marks the devices as unhealthy when the first session ends, and nothing makes them healthy again.
func TestAKubeletThatComesLateIsToldOnce(t *testing.T) {
	dir, err := os.MkdirTemp("", "fuse-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	log := make(chan string, 10)
	p, err := fusedevice.New(fusedevice.Config{Dir: dir, Seen: "/dev/null", Devices: 1, Log: slog.New(slog.NewTextHandler(lines(log), nil))})
	require.NoError(t, err)
	startKubelet(t, dir).server.Stop() // there is a socket, and nobody listens
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	require.Contains(t, <-log, "does not take the device plugin yet")
	k := startKubelet(t, dir) // while the plugin pauses: it hears of the new socket after it has used it
	require.Equal(t, fusedevice.Resource, k.await(t).ResourceName)
	require.Contains(t, <-log, "registered")
	require.NoError(t, os.Remove(filepath.Join(dir, "sandgate-fuse.sock")))
	require.Equal(t, fusedevice.Resource, k.await(t).ResourceName)
	require.Contains(t, <-log, "registered")
	cancel()
	require.NoError(t, <-done)
	require.Empty(t, k.registered)
	require.Empty(t, log)
}

type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

func TestADeviceThatIsNotThereIsUnhealthyUntilItComes(t *testing.T) {
	dir, err := os.MkdirTemp("", "fuse-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p, err := fusedevice.New(fusedevice.Config{Dir: dir, Seen: filepath.Join(dir, "dev"), Devices: 1, Look: 10 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	k := startKubelet(t, dir)
	go func() { done <- p.Run(ctx) }()
	r := k.await(t)
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, r.Endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	watch, err := api.NewDevicePluginClient(conn).ListAndWatch(t.Context(), &api.Empty{})
	require.NoError(t, err)
	list, err := watch.Recv()
	require.NoError(t, err)
	require.Equal(t, api.Unhealthy, list.Devices[0].Health)
	require.NoError(t, os.Symlink("/dev/null", filepath.Join(dir, "dev")))
	list, err = watch.Recv()
	require.NoError(t, err)
	require.Equal(t, api.Healthy, list.Devices[0].Health)
	require.NoError(t, os.Remove(filepath.Join(dir, "dev")))
	list, err = watch.Recv()
	require.NoError(t, err)
	require.Equal(t, api.Unhealthy, list.Devices[0].Health, "and again when it goes")
	cancel()
	require.NoError(t, <-done)
}
