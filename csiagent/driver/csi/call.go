package csi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

const maxSocket = 107 // of a Unix socket's address

// dial makes a connection that comes back as soon as a plugin does.
func dial(socket string) (*grpc.ClientConn, error) {
	back := backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 500 * time.Millisecond}
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the directory of the socket is ours alone
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: back, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithIdleTimeout(0), grpc.WithDisableServiceConfig(), grpc.WithNoProxy())
	if err != nil {
		return nil, fmt.Errorf("csi: %w", err)
	}
	return conn, nil
}

// failure is an answer of the plugin that is no success.
type failure struct {
	call string
	err  error
}

func (f *failure) Error() string { return f.call + ": " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// call makes one call with the time that one may take.
func call[Q, A any](ctx context.Context, d *Driver, name string, f func(context.Context, Q, ...grpc.CallOption) (A, error), q Q) (A, error) {
	ctx, cancel := context.WithTimeout(ctx, d.config.CallTimeout)
	defer cancel()
	a, err := f(ctx, q)
	if err != nil {
		return a, &failure{name, err}
	}
	return a, nil
}

// abilities are what of a node plugin's capabilities makes a difference here.
type abilities struct{ stages, writers, group bool }

// meet asks the plugin who it is, whether it is ready, and what it can do.
func (d *Driver) meet(ctx context.Context) (abilities, error) {
	var can abilities
	identity, node := csi.NewIdentityClient(d.conn), csi.NewNodeClient(d.conn)
	info, err := call(ctx, d, "GetPluginInfo", identity.GetPluginInfo, &csi.GetPluginInfoRequest{})
	if err != nil {
		return can, err
	}
	if info.GetName() != d.config.Name {
		return can, fmt.Errorf("%w: the plugin beside the agent is that of driver %q, not %q; an administrator must give the agent the plugin's own name",
			mount.ErrInvalid, info.GetName(), d.config.Name)
	}
	ready, err := call(ctx, d, "Probe", identity.Probe, &csi.ProbeRequest{})
	if err != nil {
		return can, err
	}
	if ready.GetReady() != nil && !ready.GetReady().GetValue() {
		return can, &failure{"Probe", status.Error(codes.Unavailable, "not ready")}
	}
	if err := d.unattached(ctx, identity); err != nil {
		return can, err
	}
	have, err := call(ctx, d, "NodeGetCapabilities", node.NodeGetCapabilities, &csi.NodeGetCapabilitiesRequest{})
	for _, c := range have.GetCapabilities() {
		switch c.GetRpc().GetType() {
		case csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME:
			can.stages = true
		case csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER:
			can.writers = true
		case csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP:
			can.group = true
		}
	}
	return can, err
}

// mortal is how often a plugin may end while it is asked for its controller, before it is not asked any more.
const mortal = 2

// unattached refuses a driver whose volumes have to be attached to a node first. One whose controller is not in this plugin cannot be
// asked; it refuses the volume itself. Some of those say that they have a controller and crash when it is asked (the one of Google's
// Persistent Disk, when it was told to run none): a kubelet never asks.
func (d *Driver) unattached(ctx context.Context, identity csi.IdentityClient) error {
	if d.deaths.Load() >= mortal {
		return nil
	}
	plugin, err := call(ctx, d, "GetPluginCapabilities", identity.GetPluginCapabilities, &csi.GetPluginCapabilitiesRequest{})
	if err != nil {
		return err
	}
	controller := false
	for _, c := range plugin.GetCapabilities() {
		controller = controller || c.GetService().GetType() == csi.PluginCapability_Service_CONTROLLER_SERVICE
	}
	if !controller {
		return nil
	}
	have, err := call(ctx, d, "ControllerGetCapabilities", csi.NewControllerClient(d.conn).ControllerGetCapabilities, &csi.ControllerGetCapabilitiesRequest{})
	switch status.Code(errors.Unwrap(err)) {
	case codes.Unimplemented:
		return nil
	case codes.Unavailable:
		d.deaths.Add(1)
	}
	for _, c := range have.GetCapabilities() {
		if c.GetRpc().GetType() == csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME {
			return fmt.Errorf("%w: driver %s attaches volumes to nodes by its controller (ControllerPublishVolume), which nobody does for a sandbox that "+
				"is running; use a driver whose CSIDriver says attachRequired: false", mount.ErrInvalid, d.config.Name)
		}
	}
	return err
}

// again says whether the plugin may do next time what it has not done now. One that did not answer in time has had its time.
func again(err error) bool {
	var f *failure
	if !errors.As(err, &f) {
		return false
	}
	code := status.Code(f.err)
	return code == codes.Unavailable || code == codes.Aborted
}

// kinds are the plugin's answers by what they are to a caller.
var kinds = map[codes.Code]error{
	codes.InvalidArgument: mount.ErrInvalid, codes.OutOfRange: mount.ErrInvalid, codes.AlreadyExists: mount.ErrInvalid,
	codes.Unimplemented: mount.ErrInvalid, codes.FailedPrecondition: mount.ErrInvalid,
	codes.NotFound: mount.ErrNotFound, codes.PermissionDenied: mount.ErrDenied, codes.Unauthenticated: mount.ErrDenied,
}

// refusal is err for a caller. A plugin's own words may hold anything; they are for the log, and there without the secrets.
func (d *Driver) refusal(ctx context.Context, err error) error {
	var f *failure
	if !errors.As(err, &f) {
		return err
	}
	code := status.Code(f.err)
	d.config.Logger.WarnContext(ctx, "the driver refuses a volume", "driver", d.config.Name, "call", f.call, "code", code.String(),
		"words", d.config.Hide.Text(status.Convert(f.err).Message()))
	kind := kinds[code]
	switch {
	case code == codes.DeadlineExceeded || code == codes.Canceled:
		return fmt.Errorf("%w: driver %s did not answer %s in time", mount.ErrUnavailable, d.config.Name, f.call)
	case kind == nil:
		kind = mount.ErrUnavailable
	}
	return fmt.Errorf("%w: driver %s refuses it (%s: %s); the agent's log has its words", kind, d.config.Name, f.call, code)
}
