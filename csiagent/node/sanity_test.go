package node_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

// own is this process's view of the file system as a Target: there are no sandboxes in a conformance test. It removes mount
// points, as CSI wants it and a sandbox does not.
type own struct{ *attach.Namespace }

func (o own) Detach(ctx context.Context, target string, id uint64, lazy bool) error {
	if err := o.Namespace.Detach(ctx, target, id, lazy); err != nil {
		return err
	}
	if err := os.Remove(target); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// shelf is the controller that the suite needs to name volumes; it makes none.
type shelf struct {
	csi.UnimplementedControllerServer
}

func (shelf) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: r.GetName(), VolumeContext: map[string]string{"size": "1Mi"}}}, nil
}

func (shelf) DeleteVolume(context.Context, *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	return &csi.DeleteVolumeResponse{}, nil
}

func (shelf) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	return &csi.ControllerGetCapabilitiesResponse{Capabilities: []*csi.ControllerServiceCapability{{
		Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME}},
	}}}, nil
}

func serve(t *testing.T, socket string, register func(*grpc.Server)) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	s := grpc.NewServer()
	register(s)
	done := make(chan error)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); require.NoError(t, <-done) })
}

func TestCSISanityOfTheNodeAndIdentityServices(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	program := os.Getenv("CSI_SANITY")
	if program == "" {
		var err error
		if program, err = exec.LookPath("csi-sanity"); err != nil {
			t.Skip("needs csi-sanity: set CSI_SANITY to the program")
		}
	}
	f, err := os.Open("/proc/self/ns/mnt")
	require.NoError(t, err)
	namespace, err := attach.NewNamespace(f, attach.NewThreads(attach.DefaultThreads))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, namespace.Close()) })
	w := newWorld(t, func(c *node.Config) {
		c.Target = func(context.Context, string) (node.Target, error) { return own{namespace}, nil }
	})
	dir := t.TempDir()
	ours, theirs := filepath.Join(dir, "csi.sock"), filepath.Join(dir, "controller.sock")
	server := node.NewServer(w.Node, node.Info{Name: mount.DriverTmpfs, Version: "1.0.0"})
	serve(t, ours, func(s *grpc.Server) { csi.RegisterIdentityServer(s, server); csi.RegisterNodeServer(s, server) })
	// The suite asks the controller's socket for the identity.
	serve(t, theirs, func(s *grpc.Server) { csi.RegisterIdentityServer(s, server); csi.RegisterControllerServer(s, shelf{}) })

	cmd := exec.Command(program, "-csi.endpoint", ours, "-csi.controllerendpoint", theirs, "-csi.mountdir", filepath.Join(dir, "mount"),
		"-csi.stagingdir", filepath.Join(dir, "staging"), "-ginkgo.focus", "Node Service|Identity Service", "-ginkgo.no-color")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "0 Failed")
	require.NotContains(t, string(out), "Ran 0 of")
	t.Log(regexp.MustCompile(`Ran .*\n.*Passed.*`).FindString(string(out)))
	require.Empty(t, w.Mounts(t.Context()), "the suite cleans up, or we have kept something")
}
