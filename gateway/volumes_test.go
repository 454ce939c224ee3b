package gateway_test

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	testclock "k8s.io/utils/clock/testing"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest"
)

// furnished is a world whose pool brings volumes of its own: those of the contract, and what else is given.
func furnished(t *testing.T, more ...warmpool.PoolVolume) world {
	t.Helper()
	return furnishedFor(t, gateway.TeamLimits{}, more...)
}

// furnishedFor is one in which teams may not have everything.
func furnishedFor(t *testing.T, team gateway.TeamLimits, more ...warmpool.PoolVolume) world {
	t.Helper()
	limits := gateway.DefaultLimits()
	limits.Team = team
	clk := testclock.NewFakePassiveClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	pool := warmpooltest.NewMemory(clk, warmpool.Template{
		Name: "base", Runtimes: []string{"csi"}, Containers: []warmpool.Container{{Name: "main", Mounts: true}}, Desired: 2, EnvdVersion: "0.6.0",
		Volumes: append(warmpooltest.PoolVolumes(), more...),
	})
	red := warmpooltest.TmpfsVolume("red")
	red.Annotations = map[string]string{"sandgate.dev/teams": "red"}
	s, err := gateway.New(gateway.Config{
		Backend: pool, Reader: warmpooltest.Volumes{"scratch": warmpooltest.TmpfsVolume("scratch"), "red": red},
		Policy: mount.DefaultPolicy(), Limits: limits, Clock: clk, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	require.NoError(t, err)
	return world{s, pool, clk}
}

func TestASandboxGetsTheVolumesOfItsPool(t *testing.T) {
	w := furnished(t, warmpool.PoolVolume{Mount: mount.Mount{Spec: mount.Spec{ID: "mine", Volume: "scratch", SubPath: "${SANDBOX_ID}", Target: "/mine"}}, AtClaim: true})
	sb, err := w.Create(t.Context(), claim(mount.Spec{Volume: "scratch", Target: "/data"}))
	require.NoError(t, err)
	var targets []string
	for _, m := range sb.Mounts {
		targets = append(targets, m.Target)
	}
	require.ElementsMatch(t, []string{"/shared", "/work", "/mine", "/data"}, targets)
	published := w.pool.Started(sb.ID).Mounts
	require.Len(t, published, 3, "what is there already is not published again")
	require.Equal(t, mount.DriverPool, published[0].Driver)
	require.Equal(t, mount.DriverTmpfs, published[1].Driver)
	require.Equal(t, string(sb.ID), published[1].SubPath)
}

func TestAClaimsMountsLeaveThePoolsVolumesTheirPlaces(t *testing.T) {
	w := furnished(t)
	for target, want := range map[string]string{
		"/shared": "is the target of another mount too", "/work/in": "lies inside /work", "/shared/x": "lies inside /shared",
	} {
		_, err := w.Create(t.Context(), claim(mount.Spec{Volume: "scratch", Target: target}))
		require.Equal(t, warmpool.Invalid, warmpool.CodeOf(err))
		var faults mount.Faults
		require.ErrorAs(t, err, &faults)
		require.Equal(t, 0, faults[0].Index, "it is the claim's own place")
		require.ErrorContains(t, err, want)
	}
	require.Zero(t, w.pool.Claimed())
}

func TestAPoolsPersistentVolumeIsForThoseWhoMayMountIt(t *testing.T) {
	w := furnished(t, warmpool.PoolVolume{Mount: mount.Mount{Spec: mount.Spec{ID: "theirs", Volume: "red", Target: "/theirs"}}, AtClaim: true})
	_, err := w.Create(t.Context(), claim())
	require.Equal(t, warmpool.Invalid, warmpool.CodeOf(err))
	require.ErrorContains(t, err, "brings volume 'theirs' at /theirs, which you cannot have")
	require.Zero(t, w.pool.Claimed())
	c := claim()
	c.Principal.Team = "red"
	_, err = w.Create(t.Context(), c)
	require.NoError(t, err)
}

func TestThePoolsVolumesCountAgainstATeamsLimits(t *testing.T) {
	for words, limits := range map[string]gateway.TeamLimits{
		"3 mounts at a time and yours has 2": {Mounts: 3}, "1 sandboxes with volumes at a time and yours has 1": {Mounted: 1},
	} {
		w := furnishedFor(t, limits)
		_, err := w.Create(t.Context(), claim())
		require.NoError(t, err)
		_, err = w.Create(t.Context(), claim())
		enough(t, err, words)
		require.Equal(t, 1, w.pool.Claimed(), "nothing was claimed for it")
	}
}

func TestAVolumeOfADriverThatTheTemplateLacksTakesNoSandbox(t *testing.T) {
	const smb = "smb.csi.k8s.io"
	containers := []warmpool.Container{{Name: "main", Mounts: true}}
	pool := warmpooltest.NewMemory(testclock.NewFakePassiveClock(time.Now()),
		warmpool.Template{Name: "base", Runtimes: []string{"csi"}, Containers: containers, Desired: 1},
		warmpool.Template{Name: "smb", Runtimes: []string{"csi-smb"}, Containers: containers, Desired: 1})
	s, err := gateway.New(gateway.Config{
		Backend: pool, Reader: warmpooltest.Volumes{"share": warmpooltest.CSIVolume("share", smb, nil)}, Policy: mount.DefaultPolicy().With(smb),
		Plugins: volume.Plugins{"csi-smb": smb}, Limits: gateway.DefaultLimits(), Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	require.NoError(t, err)
	refused := func(err error) {
		t.Helper()
		require.Equal(t, warmpool.Invalid, warmpool.CodeOf(err))
		require.ErrorContains(t, err, `needs driver "smb.csi.k8s.io"`)
		require.ErrorContains(t, err, `"csi-smb"`)
	}
	share := claim(mount.Spec{Volume: "share", Target: "/data"})
	_, err = s.Create(t.Context(), share)
	refused(err)
	require.Zero(t, pool.Claimed())
	sb, err := s.Create(t.Context(), claim())
	require.NoError(t, err)
	_, _, err = s.Mount(t.Context(), alice, sb.ID, share.Mounts[0])
	refused(err)
	share.Template = "smb"
	_, err = s.Create(t.Context(), share)
	require.NoError(t, err)
}

// onNode is a volume of one node.
func onNode(name, node string) *corev1.PersistentVolume {
	pv := warmpooltest.TmpfsVolume(name)
	pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
	}}}}
	return pv
}

func TestASandboxIsWhereItsVolumesAre(t *testing.T) {
	at := func(volume string) []mount.Spec {
		return claim(mount.Spec{Volume: volume, Target: "/" + volume}).Mounts
	}
	placed := func(node string, own ...warmpool.PoolVolume) (*gateway.Service, *warmpooltest.Memory) {
		pool := warmpooltest.NewMemory(testclock.NewFakePassiveClock(time.Now()), warmpool.Template{
			Name: "base", Runtimes: []string{"csi"}, Containers: []warmpool.Container{{Name: "main", Mounts: true}}, Desired: 3, Volumes: own,
		})
		pool.Node = "a"
		s, err := gateway.New(gateway.Config{
			Backend: pool, Reader: warmpooltest.Volumes{"all": warmpooltest.TmpfsVolume("all"), "a": onNode("a", "a"), "b": onNode("b", "b")},
			Policy: mount.DefaultPolicy(), Node: node, Limits: gateway.DefaultLimits(), Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		})
		require.NoError(t, err)
		return s, pool
	}
	create := func(s *gateway.Service, specs ...mount.Spec) (warmpool.Sandbox, error) {
		c := claim()
		c.Mounts = specs
		return s.Create(t.Context(), c)
	}
	s, pool := placed("")
	var nodes []string
	pool.OnClaim = func(_ context.Context, c warmpool.Claim) error {
		nodes = c.Nodes
		return nil
	}
	_, err := create(s, at("all")...)
	require.NoError(t, err)
	require.Nil(t, nodes)
	sb, err := create(s, append(at("all"), at("a")...)...)
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, nodes)

	claimed := pool.Claimed()
	_, err = create(s, append(at("a"), at("b")...)...)
	require.Equal(t, warmpool.Invalid, warmpool.CodeOf(err))
	require.ErrorContains(t, err, "is on no node that has the other volumes too")
	_, err = create(s, at("b")...)
	require.Error(t, err, "from a backend that does not heed the node")
	require.Equal(t, []string{"b"}, nodes)
	require.Equal(t, claimed, pool.Claimed(), "it is not handed out")

	_, _, err = s.Mount(t.Context(), alice, sb.ID, at("b")[0])
	require.Equal(t, warmpool.Invalid, warmpool.CodeOf(err))
	require.ErrorContains(t, err, "is not on the node of the sandbox")

	s, pool = placed("", warmpool.PoolVolume{Mount: mount.Mount{Spec: mount.Spec{ID: "own", Volume: "a", Target: "/own"}}, AtClaim: true})
	pool.OnClaim = func(_ context.Context, c warmpool.Claim) error {
		nodes = c.Nodes
		return nil
	}
	_, err = create(s, at("all")...)
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, nodes, "the pool's volumes are to be there too")

	s, pool = placed("a")
	_, err = create(s, at("b")...)
	require.Equal(t, warmpool.Invalid, warmpool.CodeOf(err), "there is no other node")
	require.Zero(t, pool.Claimed())
	_, err = create(s, at("a")...)
	require.NoError(t, err)
}

func TestAFaultOfAPoolsVolumeIsFinal(t *testing.T) {
	w := furnished(t)
	w.pool.OnStart = func(context.Context, warmpool.ID, warmpool.Start) error {
		return warmpool.Errorf(warmpool.Internal, "volume 'work' at /work: wrong key")
	}
	_, err := w.Create(t.Context(), claim())
	var e *warmpool.Error
	require.ErrorAs(t, err, &e)
	require.True(t, e.Final, "asking again by itself meets the same volume")
}

func TestTheVolumesOfAPoolComeAndGoOnALivingSandbox(t *testing.T) {
	w := furnished(t)
	sb, err := w.Create(t.Context(), claim())
	require.NoError(t, err)
	spec := claim(mount.Spec{Volume: "scratch", Target: "/shared"}).Mounts[0]
	_, _, err = w.Mount(t.Context(), alice, sb.ID, spec)
	require.Equal(t, warmpool.Conflict, warmpool.CodeOf(err))
	_, err = w.Unmount(t.Context(), alice, sb.ID, "shared", false)
	require.NoError(t, err)
	_, made, err := w.Mount(t.Context(), alice, sb.ID, spec)
	require.NoError(t, err)
	require.True(t, made)
}

// rolling is a pool whose first sandboxes were made when it had a volume more, mounted at Ready.
type rolling struct {
	*warmpooltest.Memory
	old     int
	more    warmpool.PoolVolume
	unknown bool
}

func (r *rolling) Claim(ctx context.Context, c warmpool.Claim) (warmpool.Sandbox, error) {
	sb, err := r.Memory.Claim(ctx, c)
	if r.old--; r.old >= 0 {
		sb.MadeFrom.Volumes = append(sb.MadeFrom.Volumes, r.more)
		sb.Mounts = append(sb.Mounts, warmpool.MountStatus{Spec: r.more.Spec, Phase: warmpool.MountReady, Verdict: warmpool.MountLive})
		if r.unknown {
			sb.MadeFrom = warmpool.Template{}
		}
	}
	return sb, err
}

func TestOldStockWithAVolumeThatIsNotTheClaimantsGoesToNobodyOfHis(t *testing.T) {
	red := warmpooltest.TmpfsVolume("red")
	red.Annotations = map[string]string{"sandgate.dev/teams": "red"}
	for name, c := range map[string]struct {
		team    string
		old     int
		taken   int  // of old stock
		unknown bool // what it was made from cannot be read any more
		fails   bool
	}{
		"another one is taken":                  {team: "alice", old: 2, taken: 2},
		"only such are left":                    {team: "alice", old: 4, taken: 3, fails: true},
		"those who may have it get it":          {team: "red", old: 1},
		"it cannot be told what it was made of": {team: "alice", old: 1, taken: 1, unknown: true},
	} {
		t.Run(name, func(t *testing.T) {
			pool := &rolling{
				Memory: warmpooltest.NewMemory(testclock.NewFakePassiveClock(time.Now()), warmpool.Template{
					Name: "base", Runtimes: []string{"csi"}, Containers: []warmpool.Container{{Name: "main", Mounts: true}}, Desired: 5,
				}),
				old: c.old, unknown: c.unknown, more: warmpool.PoolVolume{Mount: mount.Mount{Spec: mount.Spec{ID: "theirs", Volume: "red", Target: "/theirs"}}},
			}
			s, err := gateway.New(gateway.Config{
				Backend: pool, Reader: warmpooltest.Volumes{"red": red}, Policy: mount.DefaultPolicy(), Limits: gateway.DefaultLimits(),
				Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
			})
			require.NoError(t, err)
			asked := claim()
			asked.Principal.Team = c.team
			sb, err := s.Create(t.Context(), asked)
			left, gone := pool.Template(t.Context(), "base")
			require.NoError(t, gone)
			if c.fails {
				var e *warmpool.Error
				require.ErrorAs(t, err, &e)
				require.Equal(t, warmpool.Unavailable, e.Code)
				require.Contains(t, e.Message, "template 'base' that are ready were made with a volume that you cannot have")
				require.NotContains(t, e.Message, "theirs", "it may be somebody else's")
				require.Positive(t, e.RetryAfter)
				require.False(t, e.Final)
				require.Zero(t, pool.Claimed(), "none of them is left to anybody")
				require.Equal(t, 5-c.taken, left.Ready)
				return
			}
			require.NoError(t, err)
			require.Equal(t, 1, pool.Claimed(), "the others have ended")
			require.Equal(t, 5-c.taken-1, left.Ready)
			require.Empty(t, pool.Started(sb.ID).Mounts, "what is there is not published again")
		})
	}
}
