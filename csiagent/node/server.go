package node

import (
	"context"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Info is what a Server says of itself.
type Info struct {
	Name    string // the plugin's name; also the driver of requests that name none
	Version string
	NodeID  string // Name when empty
}

// Server speaks CSI's Identity and Node services for a Node.
type Server struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedNodeServer

	node *Node
	info Info
}

var (
	_ csi.IdentityServer = (*Server)(nil)
	_ csi.NodeServer     = (*Server)(nil)
)

// NewServer returns a CSI face of n.
func NewServer(n *Node, i Info) *Server {
	if i.NodeID == "" {
		i.NodeID = i.Name
	}
	return &Server{node: n, info: i}
}

// GetPluginInfo tells name and version.
func (s *Server) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: s.info.Name, VendorVersion: s.info.Version}, nil
}

// GetPluginCapabilities tells that there is no controller.
func (s *Server) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{}, nil
}

// Probe says that the plugin is ready, which it is while it answers.
func (s *Server) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// NodeGetInfo names the node.
func (s *Server) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: s.info.NodeID}, nil
}

// NodeGetCapabilities tells of statistics and health, and that nothing is staged.
func (s *Server) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	var out []*csi.NodeServiceCapability
	for _, c := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS, csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
	} {
		out = append(out, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: c}},
		})
	}
	return &csi.NodeGetCapabilitiesResponse{Capabilities: out}, nil
}

// NodePublishVolume mounts a volume at a path of the sandbox.
func (s *Server) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	m, err := fromRequest(r, s.info.Name)
	if err == nil {
		err = s.node.Publish(ctx, m)
	}
	if err != nil {
		return nil, s.fail(ctx, "publish", err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// NodeUnpublishVolume takes a volume away from a path in the container that the call names, or else in whichever containers it is there.
// One that is being published there, in the main container when none is named, is waited for.
func (s *Server) NodeUnpublishVolume(ctx context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	return s.unpublish(ctx, r, s.node.Unpublish)
}

// UnpublishIdle is NodeUnpublishVolume of a volume that nobody uses, for which CSI has no word: ABORTED when it is in use.
func (s *Server) UnpublishIdle(ctx context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	return s.unpublish(ctx, r, s.node.UnpublishIdle)
}

func (s *Server) unpublish(ctx context.Context, r *csi.NodeUnpublishVolumeRequest, take func(context.Context, Identity) error) (*csi.NodeUnpublishVolumeResponse, error) {
	switch {
	case r.GetVolumeId() == "":
		return nil, invalidf("volume_id is required")
	case r.GetTargetPath() == "":
		return nil, invalidf("target_path is required")
	}
	for _, id := range s.named(ctx, r) {
		if err := take(ctx, id); err != nil {
			return nil, s.fail(ctx, "unpublish", err)
		}
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// named are the mounts that a call is to take away. Where there is none, one may be under way: whoever takes it waits for that.
func (s *Server) named(ctx context.Context, r *csi.NodeUnpublishVolumeRequest) (out []Identity) {
	for _, e := range s.node.find(ctx, r.GetVolumeId(), r.GetTargetPath()) {
		out = append(out, Identity{e.VolumeHandle, e.Spec.Container, e.Spec.Target})
	}
	if len(out) == 0 {
		container, _ := inContainer(ctx) // else the main one
		out = []Identity{{r.GetVolumeId(), container, r.GetTargetPath()}}
	}
	return out
}

// NodeGetVolumeStats tells the usage of a published volume that can be read.
func (s *Server) NodeGetVolumeStats(ctx context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	switch {
	case r.GetVolumeId() == "":
		return nil, invalidf("volume_id is required")
	case r.GetVolumePath() == "":
		return nil, invalidf("volume_path is required")
	}
	e, err := s.published(ctx, r.GetVolumeId(), r.GetVolumePath())
	if err != nil {
		return nil, err
	}
	if h := s.node.health(ctx, e); !h.Works() {
		return nil, status.Error(codes.Unavailable, h.Message)
	}
	usage, err := s.node.usage(ctx, e)
	if err != nil {
		return nil, s.fail(ctx, "stats", err)
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: usage}, nil
}

// NodeGetVolumeHealth tells whether a published volume can be read: what cannot is no error but an entry.
func (s *Server) NodeGetVolumeHealth(ctx context.Context, r *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, invalidf("volume_id is required")
	}
	e, err := s.published(ctx, r.GetVolumeId(), r.GetVolumePublishPath())
	if err != nil {
		return nil, err
	}
	health := &csi.VolumeHealth{VolumeId: e.VolumeHandle}
	if h := s.node.health(ctx, e); h.Message != "" {
		kind := csi.VolumeHealthErrorType_INACCESSIBLE
		if h.Works() {
			kind = csi.VolumeHealthErrorType_DEGRADED
		}
		health.HealthStatuses = []*csi.VolumeHealth_VolumeHealthEntry{{Status: kind, Reason: reasons[h.Verdict], Message: h.Message}}
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: health}, nil
}

// reasons are the verdicts on CSI's wire; a live volume has one when it has been healed.
var reasons = map[Verdict]string{VerdictLive: "Healed", VerdictSlow: "Slow", VerdictHung: "Hung", VerdictDead: "Dead"}

// HealthOf is what NodeGetVolumeHealth has answered.
func HealthOf(v *csi.VolumeHealth) Health {
	said := v.GetHealthStatuses()
	if len(said) == 0 {
		return Health{Verdict: VerdictLive}
	}
	for verdict, reason := range reasons {
		if said[0].GetReason() == reason {
			return Health{verdict, said[0].GetMessage()}
		}
	}
	return Health{VerdictDead, said[0].GetMessage()} // an earlier agent knows one reason
}

// published finds a mount of a volume, at target unless that is empty.
func (s *Server) published(ctx context.Context, handle, target string) (*entry, error) {
	if all := s.node.find(ctx, handle, target); len(all) > 0 {
		return all[0], nil
	}
	return nil, status.Error(codes.NotFound, "the volume is not published at this path")
}

func (s *Server) fail(ctx context.Context, what string, err error) error {
	out := toStatus(err)
	if status.Code(out) == codes.Internal {
		s.node.config.Logger.ErrorContext(ctx, what, "error", err)
	}
	return out
}

// find returns the mounts of a volume, at target unless that is empty, in the container that the call names, or else in all.
func (n *Node) find(ctx context.Context, handle, target string) (out []*entry) {
	container, named := inContainer(ctx)
	for _, e := range n.entries() {
		if e.VolumeHandle == handle && (target == "" || e.Spec.Target == target) && (!named || e.Spec.Container == container) {
			out = append(out, e)
		}
	}
	return out
}

// usage asks a file system that has just answered.
func (n *Node) usage(ctx context.Context, e *entry) ([]*csi.VolumeUsage, error) {
	t, err := n.target(ctx, e)
	if err != nil {
		return nil, err
	}
	dir, err := t.Open(ctx, e.Spec.Target, e.MountID)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	st, err := patiently(ctx, n, e.VolumeHandle, dir, func(dir *os.File) (unix.Statfs_t, error) {
		var st unix.Statfs_t
		err := unix.Fstatfs(int(dir.Fd()), &st)
		return st, err
	}, func(unix.Statfs_t) {})
	if err != nil {
		return nil, translate(err)
	}
	size := int64(st.Bsize) //nolint:unconvert // its width differs by architecture
	return []*csi.VolumeUsage{
		{
			Unit: csi.VolumeUsage_BYTES, Total: int64(st.Blocks) * size, Available: int64(st.Bavail) * size,
			Used: int64(st.Blocks-st.Bfree) * size,
		},
		{Unit: csi.VolumeUsage_INODES, Total: int64(st.Files), Available: int64(st.Ffree), Used: int64(st.Files - st.Ffree)},
	}, nil
}
