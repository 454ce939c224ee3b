package kube_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/kube"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest"
)

// bounded is a backend whose stock nobody refills.
type bounded struct {
	*kube.Backend
	stock int
}

// Capacity implements the contract's own interface.
func (b bounded) Capacity(string) int { return b.stock }

func TestTheContract(t *testing.T) {
	warmpooltest.Run(t, func(t *testing.T) warmpooltest.Backend {
		w := newWorld(t)
		w.agents.onPublish = func(ctx context.Context, _ string, _ mount.Mount) error {
			select { // others come in between, as they do when a volume is mounted
			case <-time.After(2 * time.Millisecond):
			case <-ctx.Done():
			}
			return ctx.Err()
		}
		w.set("base", 8)
		w.set("furnished", 1, furnished)
		b := w.replica(func(c *kube.Config) { c.Cold = -1 })
		w.stocked(b, "base", 8)
		w.stocked(b, "furnished", 1)
		return bounded{b, 8}
	})
}

// furnished gives a set a volume of each time.
func furnished(s *v1alpha1.SandboxSet) {
	s.Spec.Volumes = []v1alpha1.PoolVolume{
		{Name: "shared", MountPath: "/shared", MountAt: v1alpha1.MountAtReady, HostPath: &corev1.HostPathVolumeSource{Path: "/srv/shared"}},
		{Name: "work", MountPath: "/work", SubPath: "w", MountAt: v1alpha1.MountAtClaim, NFS: &corev1.NFSVolumeSource{Server: "nas", Path: "/work"}},
	}
}
