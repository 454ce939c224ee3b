package channel

import (
	"context"
	"log/slog"
	"runtime/debug"
	"slices"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// toldKey marks answers of the agent itself, so that its "unavailable" is not taken for the connection's.
const toldKey = "x-sandgate-agent"

// intercept marks the answer, puts the request's ID into the context, and refuses what nobody can do or tell without the namespace.
func (s *Server) intercept(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (answer any, err error) {
	_ = grpc.SetTrailer(ctx, metadata.Pairs(toldKey, "1")) // fails only without a stream
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		if ids := md.Get(requestKey); len(ids) == 1 && len(ids[0]) <= 64 {
			ctx = context.WithValue(ctx, requestIn{}, ids[0])
		}
	}
	if needsNamespace(req) && !s.cfg.Reachable() {
		return nil, status.Error(codes.FailedPrecondition, ErrNotReady.Error())
	}
	defer func() {
		// With this process every FUSE volume of its sandbox would end.
		if fault := recover(); fault != nil {
			s.cfg.Log.ErrorContext(ctx, "a call panicked", "fault", fault, "stack", string(debug.Stack()))
			answer, err = nil, status.Error(codes.Internal, "internal error; the agent's log says more")
		}
	}()
	if r, ok := req.(*csi.NodeUnpublishVolumeRequest); ok && onlyIdle(ctx) {
		return s.unpublishIdle(ctx, r)
	}
	return next(ctx, req)
}

// idler is a node service that can leave volumes alone that are in use. node.Server is one.
type idler interface {
	UnpublishIdle(ctx context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error)
}

func onlyIdle(ctx context.Context) bool {
	md, _ := metadata.FromIncomingContext(ctx)
	return slices.Contains(md.Get(unpublishKey), unpublishIdle)
}

func (s *Server) unpublishIdle(ctx context.Context, r *csi.NodeUnpublishVolumeRequest) (any, error) {
	i, ok := s.cfg.Node.(idler)
	if !ok {
		return nil, status.Error(codes.Unimplemented, "this agent cannot tell whether a volume is in use")
	}
	return i.UnpublishIdle(ctx, r)
}

func needsNamespace(req any) bool {
	switch req.(type) {
	case *csi.NodePublishVolumeRequest, *csi.NodeGetVolumeHealthRequest, *csi.NodeGetVolumeStatsRequest:
		return true
	}
	return false // also unpublish: of a container that is gone there is nothing left to take away
}

type requestIn struct{}

// Named is h with the ID of the request that a call is part of in every record.
func Named(h slog.Handler) slog.Handler { return named{h} }

type named struct{ slog.Handler }

func (n named) Handle(ctx context.Context, r slog.Record) error {
	if id, ok := ctx.Value(requestIn{}).(string); ok {
		r.AddAttrs(slog.String("request", id))
	}
	return n.Handler.Handle(ctx, r)
}

func (n named) WithAttrs(attrs []slog.Attr) slog.Handler { return named{n.Handler.WithAttrs(attrs)} }
func (n named) WithGroup(name string) slog.Handler       { return named{n.Handler.WithGroup(name)} }

// identityServer tells what the agent is.
type identityServer struct {
	csi.UnimplementedIdentityServer

	version    string
	handedOver func() bool
}

// GetPluginInfo tells version, protocol and whether the namespace is here.
func (i identityServer) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	state := waiting
	if i.handedOver() {
		state = handedOver
	}
	return &csi.GetPluginInfoResponse{Name: agentName, VendorVersion: i.version, Manifest: map[string]string{
		manifestProtocol: strconv.Itoa(Protocol), manifestHandover: state,
	}}, nil
}

// GetPluginCapabilities tells that there is no controller.
func (i identityServer) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{}, nil
}

// Probe says whether volumes can be published.
func (i identityServer) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(i.handedOver())}, nil
}
