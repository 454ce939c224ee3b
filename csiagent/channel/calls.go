package channel

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

// call does one call and gives its error a kind. One whose connection was lost under it is made again, once: every call may be repeated.
func (a *Agent) call(ctx context.Context, do func(ctx context.Context, conn *grpc.ClientConn, opt grpc.CallOption) error) error {
	conn, err := a.connect()
	if err != nil {
		return err
	}
	if id := a.pool.cfg.Request(ctx); id != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, requestKey, id)
	}
	for try := 0; ; try++ {
		held := conn.GetState() == connectivity.Ready
		var trailer metadata.MD
		err = do(ctx, conn, grpc.Trailer(&trailer))
		told := len(trailer.Get(toldKey)) > 0
		lost := held && !told && status.Code(err) == codes.Unavailable
		if !lost || try > 0 || ctx.Err() != nil {
			return fromStatus(ctx, err, told)
		}
	}
}

// State asks the agent what it is. ErrTooOld for one that this version cannot speak to, ErrUnreachable.
func (a *Agent) State(ctx context.Context) (State, error) {
	var s State
	err := a.call(ctx, func(ctx context.Context, conn *grpc.ClientConn, opt grpc.CallOption) error {
		info, err := csi.NewIdentityClient(conn).GetPluginInfo(ctx, &csi.GetPluginInfoRequest{}, opt)
		s = stateOf(info.GetVendorVersion(), info.GetManifest())
		return err
	})
	if err != nil {
		return State{}, err
	}
	if s.Protocol < leastProtocol {
		return s, fmt.Errorf("%w (it is version %q)", ErrTooOld, s.Version)
	}
	a.mu.Lock()
	a.protocol = s.Protocol
	a.mu.Unlock()
	return s, nil
}

// admit makes sure that the agent understands what came with a protocol. It is asked once.
func (a *Agent) admit(ctx context.Context, protocol int) error {
	a.mu.Lock()
	speaks := a.protocol
	a.mu.Unlock()
	if speaks == 0 {
		s, err := a.State(ctx)
		if err != nil {
			return err
		}
		speaks = s.Protocol
	}
	if speaks < protocol {
		return ErrTooOld
	}
	return nil
}

// Publish mounts m's volume into the sandbox. The same again is no error. Errors wrap mount's kinds and node.ErrConflict, whose texts
// are for callers, or ErrUnreachable, ErrNotReady or ErrTooOld.
func (a *Agent) Publish(ctx context.Context, m mount.Mount) error {
	if err := a.admit(ctx, leastProtocol); err != nil {
		return err
	}
	return a.call(ctx, func(ctx context.Context, conn *grpc.ClientConn, opt grpc.CallOption) error {
		_, err := csi.NewNodeClient(conn).NodePublishVolume(ctx, node.PublishRequest(m), opt)
		return err
	})
}

// Unpublish takes the volume away from its target. One that is not there is no error; node.ErrDataLoss says that it is gone and its last
// writes may be missing.
func (a *Agent) Unpublish(ctx context.Context, id node.Identity) error {
	ctx = node.InContainer(ctx, id.Container)
	return a.call(ctx, func(ctx context.Context, conn *grpc.ClientConn, opt grpc.CallOption) error {
		_, err := csi.NewNodeClient(conn).NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: id.VolumeHandle, TargetPath: id.Target}, opt)
		return err
	})
}

// UnpublishIdle is Unpublish of a volume that nobody uses: node.ErrInUse for one that is in use, and mount.ErrUnavailable for one whose
// last writes cannot be written back; both stay.
func (a *Agent) UnpublishIdle(ctx context.Context, id node.Identity) error {
	if err := a.admit(ctx, idleProtocol); err != nil {
		return err
	}
	return a.Unpublish(metadata.AppendToOutgoingContext(ctx, unpublishKey, unpublishIdle), id)
}

// Health looks at a published volume. mount.ErrNotFound for one that is not published.
func (a *Agent) Health(ctx context.Context, id node.Identity) (h node.Health, err error) {
	ctx = node.InContainer(ctx, id.Container)
	err = a.call(ctx, func(ctx context.Context, conn *grpc.ClientConn, opt grpc.CallOption) error {
		r, err := csi.NewNodeClient(conn).NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: id.VolumeHandle, VolumePublishPath: id.Target}, opt)
		h = node.HealthOf(r.GetVolumeHealth())
		return err
	})
	return h, err
}
