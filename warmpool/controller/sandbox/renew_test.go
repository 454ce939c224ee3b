package sandbox

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// healthy is an agent whose mounts all work, unless it is told otherwise.
type healthy struct {
	Fitter
	health    node.Health
	healthErr error
	mu        sync.Mutex
	given     []string // volume and key
	err       error
}

func (h *healthy) Publish(_ context.Context, _ *v1alpha1.Sandbox, m mount.Mount) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.given = append(h.given, m.Volume+" "+m.Secret["key"])
	return h.err
}

func (h *healthy) Health(context.Context, *v1alpha1.Sandbox, v1alpha1.MountStatus) (node.Health, error) {
	if h.healthErr != nil || h.health.Verdict != "" {
		return h.health, h.healthErr
	}
	return node.Health{Verdict: node.VerdictLive}, nil
}

// shelf are two volumes, one of them with a Secret, unless that is gone.
type shelf struct {
	key   string
	gone  bool
	reads int
	err   error
}

func (s *shelf) PersistentVolume(_ context.Context, name string) (*corev1.PersistentVolume, error) {
	s.reads++
	if s.err != nil {
		return nil, s.err
	}
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
	pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: mount.DriverTmpfs, VolumeHandle: "h-" + name}
	if name == "closed" {
		pv.Spec.CSI.NodePublishSecretRef = &corev1.SecretReference{Namespace: v1alpha1.SystemNamespace, Name: "s"}
	}
	return pv, nil
}

func (s *shelf) PersistentVolumeClaim(context.Context, string, string) (*corev1.PersistentVolumeClaim, error) {
	return nil, warmpool.Errorf(warmpool.NotFound, "none")
}

func (s *shelf) Secret(context.Context, string, string) (*corev1.Secret, error) {
	if s.gone {
		return nil, warmpool.Errorf(warmpool.NotFound, "none")
	}
	return &corev1.Secret{Data: map[string][]byte{"key": []byte(s.key)}}, nil
}

func TestAMountThatWorksIsGivenWhatItsSecretHasNow(t *testing.T) {
	agent, volumes, memory := &healthy{}, &shelf{key: "1"}, &given{}
	policy := mount.DefaultPolicy()
	policy.Drivers = []string{mount.DriverTmpfs}
	cfg := &Config{Fitter: agent, Volumes: volumes, Policy: policy, Log: slog.New(slog.DiscardHandler), Check: func(mount.Mount) error { return nil }}
	sb := &v1alpha1.Sandbox{Spec: v1alpha1.SandboxSpec{
		Runtimes: []v1alpha1.Runtime{{Name: v1alpha1.RuntimeCSI}},
		Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "i"}}}},
	}}
	known := func(names ...string) {
		sb.Spec.Mounts, sb.Status.Mounts = nil, nil
		for _, n := range names {
			sb.Spec.Mounts = append(sb.Spec.Mounts, v1alpha1.Mount{ID: n, Volume: n, Path: "/data/" + n})
			sb.Status.Mounts = append(sb.Status.Mounts, v1alpha1.MountStatus{ID: n, Source: n, VolumeHandle: "h-" + n, Path: "/data/" + n, Phase: mounted})
		}
	}
	look := func() (out report) {
		agent.given = nil
		j := &job{cfg: cfg, sb: sb, now: time.Now(), given: memory}
		j.mounts(t.Context(), &out)
		require.False(t, out.missed)
		require.Len(t, out.mounts, len(sb.Spec.Mounts))
		for _, m := range out.mounts {
			require.Equal(t, mounted, m.Phase)
		}
		return out
	}

	known("closed", "open")
	look()
	require.Equal(t, []string{"closed 1"}, agent.given, "what it has nobody knows")
	look()
	require.Empty(t, agent.given)
	volumes.key = "2"
	look()
	require.Equal(t, []string{"closed 2"}, agent.given)

	volumes.key, agent.err = "3", fmt.Errorf("%w: no", mount.ErrDenied)
	require.Equal(t, []note{{"CredentialsKept", "volume closed at /data/closed keeps its earlier credentials: " + agent.err.Error()}}, look().notes)
	require.Empty(t, look().notes, "told once")
	require.Equal(t, []string{"closed 3"}, agent.given, "and tried again")
	agent.err = nil
	require.Empty(t, look().notes)
	lost := note{"CredentialsKept", `volume closed at /data/closed goes on with what it has, and cannot be mounted again: ` +
		`volume: PersistentVolume "closed" is set up wrongly: the Secret that it names does not exist`}
	volumes.gone = true
	require.Equal(t, []note{lost}, look().notes, "of the volume that needs one")
	require.Empty(t, look().notes, "told once")
	require.Empty(t, agent.given, "and left alone")
	volumes.gone = false
	require.Empty(t, look().notes)
	volumes.gone = true
	require.Equal(t, []note{lost}, look().notes, "and told again when it is gone again")
	memory = &given{}
	require.Equal(t, []note{lost}, look().notes, "and by a controller that starts")
	volumes.gone, volumes.key, agent.err = false, "4", node.ErrConflict
	require.Empty(t, look().notes)
	look()
	require.Empty(t, agent.given, "a volume that was changed under its mount is nobody's to renew")
	volumes.err = warmpool.Errorf(warmpool.Unavailable, "away")
	require.Empty(t, look().notes)

	volumes.err = nil
	known("open")
	look()
	volumes.reads = 0
	look()
	require.Zero(t, volumes.reads, "a mount without credentials is not looked up again")
}
