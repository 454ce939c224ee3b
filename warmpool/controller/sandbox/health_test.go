package sandbox

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

func TestTheStatusHasTheVerdictOnAMount(t *testing.T) {
	policy := mount.DefaultPolicy()
	policy.Drivers = []string{mount.DriverTmpfs}
	look := func(agent *healthy, known v1alpha1.MountStatus) v1alpha1.MountStatus {
		t.Helper()
		known.ID, known.Source, known.VolumeHandle, known.Path = "open", "open", "h-open", "/data"
		sb := &v1alpha1.Sandbox{
			Spec: v1alpha1.SandboxSpec{
				Runtimes: []v1alpha1.Runtime{{Name: v1alpha1.RuntimeCSI}},
				Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "i"}}}},
				Mounts:   []v1alpha1.Mount{{ID: "open", Volume: "open", Path: "/data"}},
			},
			Status: v1alpha1.SandboxStatus{Mounts: []v1alpha1.MountStatus{known}},
		}
		j := &job{
			cfg: &Config{Fitter: agent, Volumes: &shelf{}, Policy: policy, Log: slog.New(slog.DiscardHandler), Check: func(mount.Mount) error { return nil }},
			sb:  sb, now: time.Now(), given: &given{},
		}
		var out report
		j.mounts(t.Context(), &out)
		require.Len(t, out.mounts, 1)
		return out.mounts[0]
	}
	away := fmt.Errorf("%w: away", mount.ErrUnavailable)
	type status = v1alpha1.MountStatus
	for name, c := range map[string]struct {
		known   status
		agent   *healthy
		phase   string
		verdict string
	}{
		"works":                     {status{Phase: mounted}, &healthy{health: node.Health{Verdict: node.VerdictLive}}, mounted, "live"},
		"was slow and works":        {status{Phase: mounted, Verdict: "slow", Message: "slow"}, &healthy{}, mounted, "live"},
		"is slow":                   {status{Phase: mounted, Verdict: "live"}, &healthy{health: node.Health{Verdict: node.VerdictSlow, Message: "slow"}}, mounted, "slow"},
		"failed and is slow":        {status{Phase: failing, Verdict: "dead"}, &healthy{health: node.Health{Verdict: node.VerdictSlow, Message: "slow"}}, mounted, "slow"},
		"hangs":                     {status{Phase: mounted, Verdict: "live"}, &healthy{health: node.Health{Verdict: node.VerdictHung, Message: "hung"}}, failing, "hung"},
		"hangs and cannot be told":  {status{Phase: mounted}, &healthy{health: node.Health{Verdict: node.VerdictHung, Message: "hung"}, err: away}, failing, "hung"},
		"is dead":                   {status{Phase: mounted}, &healthy{health: node.Health{Verdict: node.VerdictDead, Message: "dead"}, err: away}, failing, "dead"},
		"is gone":                   {status{Phase: mounted, Verdict: "live"}, &healthy{healthErr: mount.ErrNotFound, err: away}, failing, "dead"},
		"is still gone":             {status{Phase: failing, Verdict: "dead"}, &healthy{healthErr: mount.ErrNotFound, err: away}, failing, "dead"},
		"was gone":                  {status{Phase: failing, Verdict: "dead"}, &healthy{healthErr: mount.ErrNotFound}, mounted, "live"},
		"never was":                 {status{Phase: failing}, &healthy{healthErr: mount.ErrNotFound, err: away}, failing, ""},
		"of an agent that is away":  {status{Phase: mounted, Verdict: "slow"}, &healthy{healthErr: channel.ErrUnreachable}, mounted, "slow"},
		"of an agent of before":     {status{Phase: mounted, Verdict: "live"}, &healthy{healthErr: channel.ErrTooOld}, failing, ""},
		"of a controller of before": {status{Phase: failing, Message: "x"}, &healthy{}, mounted, "live"},
	} {
		t.Run(name, func(t *testing.T) {
			got := look(c.agent, c.known)
			require.Equal(t, c.phase+" "+c.verdict, got.Phase+" "+got.Verdict)
		})
	}
}

func TestMountsAreCountedByVerdict(t *testing.T) {
	scheme := runtime.NewScheme()
	require.NoError(t, v1alpha1.AddToScheme(scheme))
	sb := &v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a"}, Status: v1alpha1.SandboxStatus{Mounts: []v1alpha1.MountStatus{
		{ID: "1", Phase: mounted, Verdict: "live", Driver: "d"}, {ID: "2", Phase: mounted, Verdict: "slow", Driver: "d"},
		{ID: "3", Phase: failing, Verdict: "hung", Driver: "d"}, {ID: "4", Phase: failing, Verdict: "dead", Driver: "d"},
		{ID: "5", Phase: failing, Verdict: "dead", Driver: "d"},
	}}}
	over := sb.DeepCopy()
	over.Name, over.Status.Phase, over.Status.PodInfo.PodUID = "over", v1alpha1.PhaseFailed, "pod"
	elected := make(chan struct{})
	gauge := Mounts(fake.NewClientBuilder().WithScheme(scheme).WithObjects(sb, over).Build(), elected)
	require.NoError(t, testutil.CollectAndCompare(gauge, strings.NewReader("")), "another replica counts them")
	close(elected)
	require.NoError(t, testutil.CollectAndCompare(gauge, strings.NewReader(`
# HELP sandgate_mounts Volumes of sandboxes by phase, verdict and driver.
# TYPE sandgate_mounts gauge
sandgate_mounts{driver="d",phase="Failed",verdict=""} 0
sandgate_mounts{driver="d",phase="Failed",verdict="dead"} 2
sandgate_mounts{driver="d",phase="Failed",verdict="hung"} 1
sandgate_mounts{driver="d",phase="Mounted",verdict="live"} 1
sandgate_mounts{driver="d",phase="Mounted",verdict="slow"} 1
sandgate_mounts{driver="d",phase="Pending",verdict=""} 0
`)))
}
