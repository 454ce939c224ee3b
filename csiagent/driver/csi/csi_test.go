package csi_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/sandgate-dev/sandgate/csiagent/driver/csi"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

const name = "fake.csi.example"

// plugin is a node plugin whose volumes are tmpfs, and that can be told to fail.
type plugin struct {
	spec.UnimplementedIdentityServer
	spec.UnimplementedNodeServer
	spec.UnimplementedControllerServer

	socket  string
	server  *grpc.Server
	name    string
	node    []spec.NodeServiceCapability_RPC_Type
	control []spec.ControllerServiceCapability_RPC_Type // nil: no controller
	ready   *wrapperspb.BoolValue

	mu    sync.Mutex
	calls []string
	asked map[string]proto.Message
	fail  map[string][]error // of the next calls
	hang  map[string]bool
	hold  map[string]chan struct{} // keeps such a call until it is closed
	bare  bool                     // publishes nothing and says that it did
	below bool                     // publishes the staging directory, in which nothing is
	finds bool                     // publishes nothing where something is mounted
	mute  error                    // its answer once it has published
	dies  func(context.Context)    // instead of saying what its controller can do
}

func (p *plugin) serve(t *testing.T) {
	t.Helper()
	_ = os.Remove(p.socket)
	l, err := net.Listen("unix", p.socket)
	require.NoError(t, err)
	p.server = grpc.NewServer()
	spec.RegisterIdentityServer(p.server, p)
	spec.RegisterNodeServer(p.server, p)
	spec.RegisterControllerServer(p.server, p)
	server := p.server
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
}

// enter notes a call and says how it fails.
func (p *plugin) enter(ctx context.Context, call string, q proto.Message) error {
	p.mu.Lock()
	p.calls = append(p.calls, call)
	p.asked[call] = q
	var err error
	if next := p.fail[call]; len(next) > 0 {
		err, p.fail[call] = next[0], next[1:]
	}
	hang, hold := p.hang[call], p.hold[call]
	p.mu.Unlock()
	if hold != nil {
		<-hold
	}
	if hang {
		<-ctx.Done()
		return status.FromContextError(ctx.Err()).Err()
	}
	return err
}

func (p *plugin) did() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := strings.Join(p.calls, " ")
	p.calls = nil
	return out
}

func (p *plugin) GetPluginInfo(context.Context, *spec.GetPluginInfoRequest) (*spec.GetPluginInfoResponse, error) {
	return &spec.GetPluginInfoResponse{Name: p.name, VendorVersion: "1"}, nil
}

func (p *plugin) Probe(context.Context, *spec.ProbeRequest) (*spec.ProbeResponse, error) {
	return &spec.ProbeResponse{Ready: p.ready}, nil
}

func (p *plugin) GetPluginCapabilities(context.Context, *spec.GetPluginCapabilitiesRequest) (*spec.GetPluginCapabilitiesResponse, error) {
	out := &spec.GetPluginCapabilitiesResponse{}
	if p.control != nil {
		out.Capabilities = append(out.Capabilities, &spec.PluginCapability{Type: &spec.PluginCapability_Service_{
			Service: &spec.PluginCapability_Service{Type: spec.PluginCapability_Service_CONTROLLER_SERVICE},
		}})
	}
	return out, nil
}

func (p *plugin) ControllerGetCapabilities(ctx context.Context, _ *spec.ControllerGetCapabilitiesRequest) (*spec.ControllerGetCapabilitiesResponse, error) {
	switch {
	case p.dies != nil:
		p.dies(ctx)
		return nil, status.Error(codes.Internal, "nobody hears this")
	case len(p.control) == 0:
		return nil, status.Error(codes.Unimplemented, "another process")
	}
	out := &spec.ControllerGetCapabilitiesResponse{}
	for _, c := range p.control {
		out.Capabilities = append(out.Capabilities, &spec.ControllerServiceCapability{Type: &spec.ControllerServiceCapability_Rpc{
			Rpc: &spec.ControllerServiceCapability_RPC{Type: c},
		}})
	}
	return out, nil
}

func (p *plugin) NodeGetCapabilities(context.Context, *spec.NodeGetCapabilitiesRequest) (*spec.NodeGetCapabilitiesResponse, error) {
	out := &spec.NodeGetCapabilitiesResponse{}
	for _, c := range p.node {
		out.Capabilities = append(out.Capabilities, &spec.NodeServiceCapability{Type: &spec.NodeServiceCapability_Rpc{
			Rpc: &spec.NodeServiceCapability_RPC{Type: c},
		}})
	}
	return out, nil
}

func (p *plugin) NodeStageVolume(ctx context.Context, q *spec.NodeStageVolumeRequest) (*spec.NodeStageVolumeResponse, error) {
	if err := p.enter(ctx, "stage", q); err != nil {
		return nil, err
	}
	if _, err := os.Stat(q.GetStagingTargetPath()); err != nil {
		return nil, status.Error(codes.Internal, "the caller makes the staging directory")
	}
	return &spec.NodeStageVolumeResponse{}, nil
}

func (p *plugin) NodePublishVolume(ctx context.Context, q *spec.NodePublishVolumeRequest) (*spec.NodePublishVolumeResponse, error) {
	if err := p.enter(ctx, "publish", q); err != nil {
		return nil, err
	}
	if err := os.Mkdir(q.GetTargetPath(), 0o755); err != nil && !os.IsExist(err) {
		return nil, status.Error(codes.Internal, "the caller makes the parent")
	}
	if table, _ := os.ReadFile("/proc/self/mountinfo"); p.finds && strings.Contains(string(table), " "+q.GetTargetPath()+" ") {
		return &spec.NodePublishVolumeResponse{}, nil
	}
	if p.below {
		return &spec.NodePublishVolumeResponse{}, unix.Mount(q.GetStagingTargetPath(), q.GetTargetPath(), "", unix.MS_BIND, "")
	}
	if err := unix.Mount("fake", q.GetTargetPath(), "tmpfs", 0, ""); err != nil && !p.bare {
		return nil, status.Error(codes.Internal, err.Error())
	} else if p.bare {
		_ = unix.Unmount(q.GetTargetPath(), unix.MNT_DETACH)
	}
	return &spec.NodePublishVolumeResponse{}, p.mute
}

func (p *plugin) NodeUnpublishVolume(ctx context.Context, q *spec.NodeUnpublishVolumeRequest) (*spec.NodeUnpublishVolumeResponse, error) {
	if err := p.enter(ctx, "unpublish", q); err != nil {
		return nil, err
	}
	_ = unix.Unmount(q.GetTargetPath(), unix.MNT_DETACH)
	_ = os.Remove(q.GetTargetPath())
	return &spec.NodeUnpublishVolumeResponse{}, nil
}

func (p *plugin) NodeUnstageVolume(ctx context.Context, q *spec.NodeUnstageVolumeRequest) (*spec.NodeUnstageVolumeResponse, error) {
	return &spec.NodeUnstageVolumeResponse{}, p.enter(ctx, "unstage", q)
}

// rig is a driver with its plugin.
type rig struct {
	*csi.Driver
	plugin *plugin
	config csi.Config
	log    *bytes.Buffer
}

const stages, writers, group = spec.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME, spec.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	spec.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP

func newRig(t *testing.T, node ...spec.NodeServiceCapability_RPC_Type) *rig {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: the plugin mounts")
	}
	dir, err := os.MkdirTemp("", "csi") // short: a socket is in it
	require.NoError(t, err)
	r := &rig{log: &bytes.Buffer{}}
	r.plugin = &plugin{socket: filepath.Join(dir, "s"), name: name, node: node, asked: map[string]proto.Message{}, fail: map[string][]error{}, hang: map[string]bool{}}
	r.plugin.serve(t)
	r.config = csi.Config{
		Name: name, Socket: r.plugin.socket, Dir: filepath.Join(dir, "d"), CallTimeout: time.Second, RetryFor: 2 * time.Second,
		Context: map[string]string{"csi.storage.k8s.io/pod.uid": "u", "mine": "context"}, Logger: slog.New(slog.NewTextHandler(r.log, nil)),
	}
	r.restart(t)
	t.Cleanup(func() {
		table, _ := os.ReadFile("/proc/self/mountinfo")
		require.NotContains(t, string(table), dir, "a mount is left")
		require.NoError(t, os.RemoveAll(dir))
		require.NotContains(t, r.log.String(), "CANARY")
	})
	return r
}

// restart is a new process with the same directory.
func (r *rig) restart(t *testing.T) {
	t.Helper()
	if r.Driver != nil {
		require.NoError(t, r.Close())
	}
	var err error
	r.Driver, err = csi.New(r.config)
	require.NoError(t, err)
	made := r.Driver
	t.Cleanup(func() { _ = made.Close() })
}

func (r *rig) mount(t *testing.T, m mount.Mount, place string) error {
	t.Helper()
	src, err := r.Mount(t.Context(), m, "/staging/"+place+"-1")
	if err == nil {
		require.True(t, src.Remote)
		require.Equal(t, m.SubPath, src.SubPath)
		require.NoError(t, src.Root.Close())
	}
	return err
}

func (r *rig) unmount(t *testing.T, place string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return r.Unmount(ctx, "/staging/"+place, mount.Process{})
}

// left are the driver's records and directories.
func (r *rig) left() []string {
	places, _ := filepath.Glob(filepath.Join(r.config.Dir, "places", "*"))
	staged, _ := filepath.Glob(filepath.Join(r.config.Dir, "stages", "*"))
	return append(places, staged...)
}

func volume() mount.Mount {
	return mount.Mount{
		Spec: mount.Spec{Volume: "pv", Target: "/data", SubPath: "a"}, Driver: name, VolumeHandle: "Handle/verbatim#1", FSType: "ext4",
		Attributes: map[string]string{"server": "s", "mine": "attribute", "csi.storage.k8s.io/pod.uid": "another's"}, Options: []string{"noatime", "vers=3"}, AccessMode: mount.ReadWriteOnce,
		Owner: mount.Owner{UID: 1000, GID: 1001}, Secret: mount.Secret{"k": "CANARY-publish"}, StageSecret: mount.Secret{"k": "CANARY-stage"},
	}
}

func TestEachCallSaysWhatTheVolumeSays(t *testing.T) {
	r := newRig(t, stages, writers, group)
	m := volume()
	m.ReadOnly = true
	require.NoError(t, r.mount(t, m, "a"))
	require.Equal(t, "stage publish", r.plugin.did())
	stage, publish := r.plugin.asked["stage"].(*spec.NodeStageVolumeRequest), r.plugin.asked["publish"].(*spec.NodePublishVolumeRequest)
	require.Equal(t, m.VolumeHandle, stage.GetVolumeId())
	require.Equal(t, m.VolumeHandle, publish.GetVolumeId())
	require.Equal(t, map[string]string{"k": "CANARY-stage"}, stage.GetSecrets())
	require.Equal(t, map[string]string{"k": "CANARY-publish"}, publish.GetSecrets())
	require.Equal(t, map[string]string{"server": "s", "mine": "attribute", "csi.storage.k8s.io/pod.uid": "u"}, publish.GetVolumeContext())
	require.Equal(t, publish.GetVolumeContext(), stage.GetVolumeContext())
	require.Equal(t, stage.GetStagingTargetPath(), publish.GetStagingTargetPath())
	require.True(t, publish.GetReadonly())
	require.True(t, proto.Equal(&spec.VolumeCapability{
		AccessType: &spec.VolumeCapability_Mount{Mount: &spec.VolumeCapability_MountVolume{
			FsType: "ext4", MountFlags: []string{"noatime", "vers=3"}, VolumeMountGroup: "1001",
		}},
		AccessMode: &spec.VolumeCapability_AccessMode{Mode: spec.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER},
	}, publish.GetVolumeCapability()), publish.GetVolumeCapability())
	require.True(t, proto.Equal(publish.GetVolumeCapability(), stage.GetVolumeCapability()))
	require.NoError(t, r.unmount(t, "a"))
	require.Equal(t, "unpublish unstage", r.plugin.did())
	require.Empty(t, r.left())
	require.NoError(t, r.unmount(t, "a"), "again")
	require.Empty(t, r.plugin.did())
}

func TestADriverThatDoesNotStageIsNotAskedTo(t *testing.T) {
	r := newRig(t)
	require.NoError(t, r.mount(t, volume(), "a"))
	require.Equal(t, "publish", r.plugin.did())
	require.Empty(t, r.plugin.asked["publish"].(*spec.NodePublishVolumeRequest).GetStagingTargetPath())
	require.Equal(t, spec.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, r.plugin.asked["publish"].(*spec.NodePublishVolumeRequest).GetVolumeCapability().GetAccessMode().GetMode())
	require.NoError(t, r.unmount(t, "a"))
	require.Equal(t, "unpublish", r.plugin.did())
}

func TestAVolumeIsUnstagedWhenItsLastMountGoes(t *testing.T) {
	r := newRig(t, stages)
	require.NoError(t, r.mount(t, volume(), "a"))
	require.NoError(t, r.mount(t, volume(), "b"))
	require.NoError(t, r.unmount(t, "a"))
	require.Equal(t, "stage publish stage publish unpublish", r.plugin.did())
	other := volume()
	other.Attributes = map[string]string{"server": "another"}
	require.ErrorIs(t, r.mount(t, other, "c"), mount.ErrInvalid, "the handle is staged in another way")
	require.NoError(t, r.unmount(t, "b"))
	require.Equal(t, "unpublish unstage", r.plugin.did())
	require.Empty(t, r.left())
}

func TestWhatIsRefusedLeavesNothing(t *testing.T) {
	fail := func(call string, code codes.Code, times int) func(*rig) {
		return func(r *rig) {
			for range times {
				r.plugin.fail[call] = append(r.plugin.fail[call], status.Error(code, "verbatim, with CANARY-stage and CANARY-publish"))
			}
		}
	}
	const many = 100
	for title, c := range map[string]struct {
		set   func(*rig)
		edit  func(*mount.Mount)
		kind  error
		says  string
		calls string
	}{
		"another name": {set: func(r *rig) { r.plugin.name = "other.example" }, kind: mount.ErrInvalid, says: `driver "other.example"`},
		"a plugin that never gets ready": {
			set: func(r *rig) { r.plugin.ready = wrapperspb.Bool(false) }, kind: mount.ErrUnavailable, says: "Probe: Unavailable",
		},
		"a driver that attaches": {
			set: func(r *rig) {
				r.plugin.control = []spec.ControllerServiceCapability_RPC_Type{spec.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME}
			},
			kind: mount.ErrInvalid, says: "attachRequired: false",
		},
		"an access mode that it does not know": {edit: func(m *mount.Mount) { m.AccessMode = mount.ReadWriteOncePod }, kind: mount.ErrInvalid, says: "ReadWriteOncePod"},
		"stage: invalid":                       {set: fail("stage", codes.InvalidArgument, 1), kind: mount.ErrInvalid, says: "NodeStageVolume: InvalidArgument", calls: "stage unstage"},
		"stage: not found":                     {set: fail("stage", codes.NotFound, 1), kind: mount.ErrNotFound, says: "NotFound", calls: "stage unstage"},
		"stage: internal":                      {set: fail("stage", codes.Internal, 1), kind: mount.ErrUnavailable, says: "Internal", calls: "stage unstage"},
		"publish: denied":                      {set: fail("publish", codes.PermissionDenied, 1), kind: mount.ErrDenied, says: "PermissionDenied", calls: "stage publish unpublish unstage"},
		"publish: precondition":                {set: fail("publish", codes.FailedPrecondition, 1), kind: mount.ErrInvalid, says: "FailedPrecondition", calls: "stage publish unpublish unstage"},
		"stage: unavailable for good":          {set: fail("stage", codes.Unavailable, many), kind: mount.ErrUnavailable, says: "NodeStageVolume: Unavailable"},
		"stage hangs":                          {set: func(r *rig) { r.plugin.hang["stage"] = true }, kind: mount.ErrUnavailable, says: "did not answer NodeStageVolume in time", calls: "stage unstage"},
		"publish hangs":                        {set: func(r *rig) { r.plugin.hang["publish"] = true }, kind: mount.ErrUnavailable, says: "did not answer NodePublishVolume in time", calls: "stage publish unpublish unstage"},
		"published and not mounted":            {set: func(r *rig) { r.plugin.bare = true }, kind: mount.ErrUnavailable, says: "it is not", calls: "stage publish unpublish unstage"},
		"published what it had not staged":     {set: func(r *rig) { r.plugin.below = true }, kind: mount.ErrUnavailable, says: "it is not", calls: "stage publish unpublish unstage"},
	} {
		t.Run(title, func(t *testing.T) {
			r := newRig(t, stages)
			m := volume()
			if c.set != nil {
				c.set(r)
			}
			if c.edit != nil {
				c.edit(&m)
			}
			err := r.mount(t, m, "a")
			require.ErrorIs(t, err, c.kind)
			require.ErrorContains(t, err, c.says)
			require.NotContains(t, err.Error(), "CANARY")
			require.NotContains(t, err.Error(), "verbatim")
			if calls := r.plugin.did(); c.calls != "" {
				require.Equal(t, c.calls, calls)
			}
			require.Empty(t, r.left())
		})
	}
}

func TestWhatPassesIsTriedAgain(t *testing.T) {
	busy := func(code codes.Code) []error { return []error{status.Error(code, "later")} }
	for title, c := range map[string]struct{ call, calls string }{
		"stage":   {"stage", "stage stage publish"},
		"publish": {"publish", "stage publish stage publish"},
	} {
		for _, code := range []codes.Code{codes.Unavailable, codes.Aborted} {
			t.Run(fmt.Sprint(title, " ", code), func(t *testing.T) {
				r := newRig(t, stages)
				r.plugin.fail[c.call] = busy(code)
				require.NoError(t, r.mount(t, volume(), "a"))
				require.Equal(t, c.calls, r.plugin.did())
				r.plugin.fail["unpublish"], r.plugin.fail["unstage"] = busy(code), busy(code)
				require.NoError(t, r.unmount(t, "a"))
				require.Equal(t, "unpublish unpublish unstage unstage", r.plugin.did())
				require.Empty(t, r.left())
			})
		}
	}
}

func TestAVolumeThatThePluginHasForgottenIsGone(t *testing.T) {
	r := newRig(t, stages)
	require.NoError(t, r.mount(t, volume(), "a"))
	r.plugin.fail["unpublish"] = []error{status.Error(codes.NotFound, "what?")}
	r.plugin.fail["unstage"] = []error{status.Error(codes.NotFound, "what?")}
	require.NoError(t, r.unmount(t, "a"), "and what it left mounted is taken away")
	require.Empty(t, r.left())
}

// silence mounts a file system whose server never answers, until let is called.
func silence(t *testing.T, dir string) (let func()) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("needs /dev/fuse: ", err)
	}
	let = sync.OnceFunc(func() { _ = unix.Close(fd) })
	t.Cleanup(let)
	require.NoError(t, unix.Mount("silent", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)))
	return let
}

func TestAFileSystemThatNeverAnswersKeepsNobodyWaitingWhenItsPluginFails(t *testing.T) {
	for _, call := range []string{"unpublish", "unstage"} {
		t.Run(call, func(t *testing.T) {
			r := newRig(t, stages)
			require.NoError(t, r.mount(t, volume(), "a"))
			dir := filepath.Join(r.config.Dir, "places", "a", "mount")
			if call == "unstage" {
				dir = r.left()[1]
			}
			let := silence(t, dir)
			r.plugin.fail[call] = []error{status.Error(codes.Internal, "its server does not answer")}
			done := make(chan error, 1)
			go func() { done <- r.unmount(t, "a") }()
			select {
			case err := <-done:
				require.ErrorContains(t, err, "Internal")
			case <-time.After(time.Minute):
				let()
				require.Fail(t, "it waits for the file system", "%v", <-done)
			}
			require.NoError(t, r.unmount(t, "a"), "the plugin has taken heart")
			require.Empty(t, r.left())
		})
	}
}

func TestWhatCannotBeUndoneIsUndoneLater(t *testing.T) {
	for _, call := range []string{"unpublish", "unstage"} {
		t.Run(call, func(t *testing.T) {
			r := newRig(t, stages)
			require.NoError(t, r.mount(t, volume(), "a"))
			r.plugin.hang[call] = true
			err := r.unmount(t, "a")
			require.ErrorContains(t, err, "DeadlineExceeded")
			require.NotEmpty(t, r.left())
			r.plugin.mu.Lock()
			r.plugin.hang[call] = false
			r.plugin.mu.Unlock()
			r.restart(t)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- r.Run(ctx) }()
			require.Eventually(t, func() bool { return len(r.left()) == 0 }, 5*time.Second, 5*time.Millisecond)
			cancel()
			require.NoError(t, <-done)
		})
	}
}

// late is the context of somebody who, when he has to wait for the first time, says so and is kept until he may go on.
type late struct {
	context.Context
	once  sync.Once
	waits chan struct{}
	goOn  chan struct{}
}

func (l *late) Done() <-chan struct{} {
	l.once.Do(func() {
		close(l.waits)
		<-l.goOn
	})
	return l.Context.Done()
}

// A volume that could not be let go of is ended by the next mount at its place, while Run, which knows of it too, waits for its turn.
func TestWhoComesLateToEndAVolumeLeavesTheNextOneAlone(t *testing.T) {
	refused := []error{status.Error(codes.Internal, "no")}
	for title, c := range map[string]struct {
		handle string
		ends   bool // it cannot be let go of either
	}{
		"the same volume": {handle: volume().VolumeHandle},
		"another one":     {handle: "another"},
		"another one that is to be ended as well, with a lock of its own": {handle: "another", ends: true},
	} {
		t.Run(title, func(t *testing.T) {
			r := newRig(t, stages)
			r.config.CallTimeout = time.Minute
			r.restart(t)
			require.NoError(t, r.mount(t, volume(), "a"))
			r.plugin.fail["unpublish"] = refused
			require.Error(t, r.unmount(t, "a"))
			r.plugin.did()

			fresh, hold, mounted := volume(), make(chan struct{}), make(chan error, 1)
			fresh.VolumeHandle = c.handle
			r.plugin.hold = map[string]chan struct{}{"unpublish": hold}
			go func() { mounted <- r.mount(t, fresh, "a") }()
			require.Eventually(t, func() bool { return r.plugin.did() != "" }, time.Minute, time.Millisecond, "it ends the earlier one")
			run, tidied := &late{Context: t.Context(), waits: make(chan struct{}), goOn: make(chan struct{})}, make(chan error, 1)
			go func() { tidied <- r.Tidy(run) }()
			<-run.waits
			close(hold)
			require.NoError(t, <-mounted)
			if c.ends {
				r.plugin.fail["unpublish"] = refused
				require.Error(t, r.unmount(t, "a"))
			}
			r.plugin.did()
			close(run.goOn)
			require.NoError(t, <-tidied)
			require.Empty(t, r.plugin.did())
			require.Len(t, r.left(), 2, "the mount and the stage")
			if c.ends {
				require.NoError(t, r.Tidy(t.Context()), "its turn comes")
			}
			require.NoError(t, r.unmount(t, "a"))
			require.Empty(t, r.left())
		})
	}
}

func TestAfterACrashOnlyWhatLivesIsKept(t *testing.T) {
	r := newRig(t, stages)
	require.NoError(t, r.mount(t, volume(), "a"))
	require.NoError(t, r.mount(t, volume(), "b"))
	r.restart(t)
	require.NoError(t, r.Keep(t.Context(), []string{"/staging/a"}))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	require.Eventually(t, func() bool { return len(r.left()) == 2 }, 5*time.Second, 5*time.Millisecond, "a, and the stage")
	cancel()
	require.NoError(t, <-done)
	require.NoError(t, r.unmount(t, "a"))
	require.Empty(t, r.left())
}

func TestAPluginThatIsNotThereIsWaitedFor(t *testing.T) {
	r := newRig(t, stages)
	r.plugin.server.Stop()
	done := make(chan error, 1)
	go func() { done <- r.mount(t, volume(), "a") }()
	select {
	case err := <-done:
		require.Fail(t, "it did not wait", "%v", err)
	case <-time.After(100 * time.Millisecond):
	}
	r.plugin.serve(t)
	require.NoError(t, <-done)
	require.NoError(t, r.unmount(t, "a"))
}

func TestAPluginThatDiesWhenItsControllerIsAskedForIsNotAskedAgain(t *testing.T) {
	r := newRig(t, stages)
	r.config.CallTimeout, r.config.RetryFor = 10*time.Second, time.Minute // a call that comes while it is away takes a moment
	r.restart(t)
	r.plugin.control = []spec.ControllerServiceCapability_RPC_Type{}
	var deaths atomic.Int32
	r.plugin.dies = func(ctx context.Context) {
		deaths.Add(1)
		server := r.plugin.server
		go func() {
			server.Stop()
			r.plugin.serve(t) // its parent starts it again
		}()
		<-ctx.Done()
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	require.Eventually(t, func() bool { return deaths.Load() == 2 }, time.Minute, 5*time.Millisecond, "when it is met")
	require.NoError(t, r.mount(t, volume(), "a"))
	require.NoError(t, r.unmount(t, "a"))
	cancel()
	require.NoError(t, <-done)
	require.LessOrEqual(t, deaths.Load(), int32(3), "the mount may have asked before the second end was noticed")
	require.Equal(t, "stage publish unpublish unstage", r.plugin.did())
}

func TestOneCallAtATimeIsUnderWayForAVolume(t *testing.T) {
	r := newRig(t, stages)
	var all sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		all.Go(func() {
			place := fmt.Sprintf("p%d", i)
			for range 5 {
				if errs[i] = r.mount(t, volume(), place); errs[i] == nil {
					errs[i] = r.unmount(t, place)
				}
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Empty(t, r.left())
}

func TestWhatWasPublishedInOneTryIsTakenBackAfterAnotherOne(t *testing.T) {
	r := newRig(t, stages)
	r.plugin.mute = status.Error(codes.Unavailable, "the connection is lost")
	r.plugin.fail["stage"] = []error{nil, status.Error(codes.Internal, "not this time")}
	require.ErrorIs(t, r.mount(t, volume(), "a"), mount.ErrUnavailable)
	require.Equal(t, "stage publish stage unpublish unstage", r.plugin.did())
	require.Empty(t, r.left())
}

// A plugin that hung may do after all what it was told to take back meanwhile, and says of what it finds mounted that it is done.
func TestAVolumeThatComesTooLateIsNotTakenForTheNext(t *testing.T) {
	r := newRig(t)
	r.plugin.finds = true
	target := filepath.Join(r.config.Dir, "places", "a", "mount")
	require.NoError(t, os.MkdirAll(target, 0o700))
	require.NoError(t, unix.Mount("late", target, "tmpfs", 0, ""))
	require.NoError(t, os.WriteFile(filepath.Join(target, "another volume's"), nil, 0o600))
	require.NoError(t, r.mount(t, volume(), "a"))
	require.NoFileExists(t, filepath.Join(target, "another volume's"))
	require.NoError(t, r.mount(t, volume(), "b"))
	require.NoError(t, r.unmount(t, "a"))
	require.NoError(t, r.unmount(t, "b"))
	require.Empty(t, r.left())
}

func TestWhatIsIncompleteIsNoDriver(t *testing.T) {
	for want, c := range map[string]csi.Config{
		"Name":   {Name: "a/b", Socket: "/s", Dir: "/d"},
		"Socket": {Name: name, Socket: "s", Dir: "/d"},
		"Dir":    {Name: name, Socket: "/s", Dir: "d"},
	} {
		_, err := csi.New(c)
		require.ErrorContains(t, err, want)
	}
}
