package node_test

import (
	"context"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/metadata"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

// slow is memory that takes its time.
type slow struct {
	node.Driver
	begun, goOn chan struct{}
}

func (s *slow) Mount(ctx context.Context, m mount.Mount, dir string) (mount.Source, error) {
	close(s.begun)
	<-s.goOn
	return s.Driver.Mount(ctx, m, dir)
}

// patient is the context of somebody who says when he begins to wait.
type patient struct {
	context.Context
	once  sync.Once
	waits chan struct{}
}

func (p *patient) Done() <-chan struct{} {
	p.once.Do(func() { close(p.waits) })
	return p.Context.Done()
}

func TestAVolumeThatIsBeingPublishedIsUnpublishedOnceItIs(t *testing.T) {
	for title, container := range map[string]string{"in the main container": "", "in another one": "beside"} {
		for how, call := range map[string]func(*node.Server, context.Context, *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error){
			"": (*node.Server).NodeUnpublishVolume, " unless it is in use": (*node.Server).UnpublishIdle,
		} {
			t.Run(title+how, func(t *testing.T) {
				d := &slow{begun: make(chan struct{}), goOn: make(chan struct{})}
				w := newWorld(t, func(c *node.Config) { d.Driver, c.Drivers[mount.DriverTmpfs] = c.Drivers[mount.DriverTmpfs], d })
				s := node.NewServer(w.Node, node.Info{Name: mount.DriverTmpfs, Version: "1"})
				m := memory("/data")
				m.Container = container
				published, unpublished := make(chan error, 1), make(chan error, 1)
				go func() {
					_, err := s.NodePublishVolume(t.Context(), node.PublishRequest(m))
					published <- err
				}()
				<-d.begun
				ctx := t.Context()
				if container != "" { // as it arrives from node.InContainer
					ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("x-sandgate-container", container))
				}
				who := &patient{Context: ctx, waits: make(chan struct{})}
				go func() {
					_, err := call(s, who, &csi.NodeUnpublishVolumeRequest{VolumeId: m.VolumeHandle, TargetPath: m.Target})
					unpublished <- err
				}()
				select {
				case <-who.waits:
				case err := <-unpublished:
					close(d.goOn)
					require.Fail(t, "it has not waited", "%v, then %v", err, <-published)
				}
				close(d.goOn)
				require.NoError(t, <-published)
				require.NoError(t, <-unpublished)
				require.Empty(t, w.Known())
				require.Empty(t, w.box.mounts(t, "/data"))
			})
		}
	}
}
