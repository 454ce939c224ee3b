// Package warmpooltest is the contract that every backend of sandboxes must pass, and Memory, a backend of records that
// passes it, with Volumes to mount, for tests of what stands above. It knows no real container and does not import the gateway.
package warmpooltest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// Backend is the contract's view of a backend; the gateway declares the same methods for its own use.
type Backend interface {
	Template(ctx context.Context, name string) (warmpool.Template, error)
	Templates(ctx context.Context) ([]warmpool.Template, error)
	Claim(ctx context.Context, c warmpool.Claim) (warmpool.Sandbox, error)
	Start(ctx context.Context, id warmpool.ID, s warmpool.Start) (warmpool.Sandbox, error)
	Publish(ctx context.Context, id warmpool.ID, m mount.Mount) (warmpool.MountStatus, bool, error)
	Unpublish(ctx context.Context, id warmpool.ID, m mount.Mount, force bool) error
	Get(ctx context.Context, id warmpool.ID) (warmpool.Sandbox, error)
	List(ctx context.Context, f warmpool.Filter) ([]warmpool.Sandbox, error)
	SetDeadline(ctx context.Context, id warmpool.ID, d warmpool.Deadline) (warmpool.Sandbox, error)
	Release(ctx context.Context, id warmpool.ID) error
}

// bounded is a backend that can say how many sandboxes of a template there can be at once; others skip that test.
type bounded interface{ Capacity(template string) int }

// patience is how long one call of a real backend may take; a container may have to be made.
const patience = 60 * time.Second

// Run holds a backend to the contract. Each test gets a fresh backend from make, whose first template has an alias and at
// least two sandboxes of stock to come, and another one two volumes: one that is there before a claim, and one that comes with it. make
// registers the clean-up.
func Run(t *testing.T, makeBackend func(t *testing.T) Backend) {
	t.Helper()
	for _, c := range contract {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			b := makeBackend(t)
			all, err := b.Templates(ctx)
			require.NoError(t, err)
			require.NotEmpty(t, all, "the contract needs a template")
			require.NotEmpty(t, all[0].Aliases, "the contract needs a template with an alias")
			c.run(ctx, t, b, all[0])
		})
	}
}

var contract = []struct {
	name string
	run  func(ctx context.Context, t *testing.T, b Backend, tpl warmpool.Template)
}{
	{"a template is found by name and by alias", templateIsFound},
	{"an unknown template is not found", unknownTemplate},
	{"a claim is echoed and started", claimIsEchoed},
	{"a sandbox is started once, and its token is its own", startedOnce},
	{"a claim by alias takes from the same pool", claimByAlias},
	{"parallel claims never get the same sandbox", claimsAreExclusive},
	{"a list is filtered by team, template, metadata and state", listIsFiltered},
	{"a deadline is moved, and only later where asked", deadlineMoves},
	{"a sandbox past its deadline is gone", deadlineEnds},
	{"a released sandbox is gone and releasing it again is not found", releaseEnds},
	{"unknown ids are not found", unknownIDs},
	{"a volume comes to a running sandbox and goes again", mountsChange},
	{"a volume in the sandbox's memory is one for all of its mounts", ephemeral},
	{"the same mount at once is one mount", mountedAtOnce},
	{"a mount that comes and goes at once is there or not", comesAndGoes},
	{"an unmount by an ID is one of the mount that has it", idOfAnother},
	{"only a running sandbox's mounts change", mountsOfTheRunning},
	{"a pool's volumes are there, or come with the claim", poolVolumes},
	{"a claim beyond capacity is exhausted", exhausted},
	{"a cancelled claim takes nothing", cancelledClaim},
}

func claimOf(tpl string) warmpool.Claim {
	return warmpool.Claim{
		Template: tpl, Principal: warmpool.Principal{Team: "team-a", Key: "key-a"},
		Metadata: map[string]string{"purpose": "contract"}, Timeout: 5 * time.Minute,
	}
}

func take(ctx context.Context, t *testing.T, b Backend, c warmpool.Claim) warmpool.Sandbox {
	t.Helper()
	s, err := b.Claim(ctx, c)
	require.NoError(t, err)
	t.Cleanup(func() { release(b, s.ID) })
	s, err = b.Start(ctx, s.ID, warmpool.Start{Env: map[string]string{"A": "b"}})
	require.NoError(t, err)
	return s
}

// release ends what a test has left; it may be gone already.
func release(b Backend, id warmpool.ID) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = b.Release(ctx, id)
}

func requireCode(t *testing.T, code warmpool.Code, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, code, warmpool.CodeOf(err), "%v", err)
}

func templateIsFound(ctx context.Context, t *testing.T, b Backend, tpl warmpool.Template) {
	for _, name := range append([]string{tpl.Name}, tpl.Aliases...) {
		got, err := b.Template(ctx, name)
		require.NoError(t, err)
		require.Equal(t, tpl.Name, got.Name)
	}
	require.GreaterOrEqual(t, tpl.Resources.CPUCount, 1)
	require.NotEmpty(t, tpl.EnvdVersion)
}

func unknownTemplate(ctx context.Context, t *testing.T, b Backend, _ warmpool.Template) {
	_, err := b.Template(ctx, "no-such-template")
	requireCode(t, warmpool.NotFound, err)
	_, err = b.Claim(ctx, claimOf("no-such-template"))
	requireCode(t, warmpool.NotFound, err)
}

func claimIsEchoed(ctx context.Context, t *testing.T, b Backend, tpl warmpool.Template) {
	c := claimOf(tpl.Name)
	intent := mount.Spec{Volume: "some-volume", Target: "/data", SubPath: "a/b", ReadOnly: true}
	intent.ID = intent.DerivedID()
	c.Mounts = []mount.Spec{intent}
	claimed, err := b.Claim(ctx, c)
	require.NoError(t, err)
	t.Cleanup(func() { release(b, claimed.ID) })
	_, ok := warmpool.ParseID(string(claimed.ID))
	require.True(t, ok, "id %q does not follow the grammar", claimed.ID)
	require.Equal(t, warmpool.Claimed, claimed.State)

	got, err := b.Get(ctx, claimed.ID)
	require.NoError(t, err)
	require.Equal(t, tpl.Name, got.Template)
	require.Equal(t, c.Principal, got.Principal)
	require.Equal(t, c.Metadata, got.Metadata)
	require.False(t, got.StartedAt.IsZero())
	require.Len(t, got.Mounts, 1, "mounts are recorded as intent when claimed")
	require.Equal(t, intent, got.Mounts[0].Spec)
	require.Equal(t, warmpool.MountPending, got.Mounts[0].Phase)

	plain := take(ctx, t, b, claimOf(tpl.Name))
	require.Equal(t, warmpool.Running, plain.State)
	require.NotEmpty(t, plain.Token.Reveal(), "a started sandbox has a token")
	require.NotEmpty(t, plain.EnvdVersion)
	require.Empty(t, plain.Mounts)
	left := plain.EndAt.Sub(plain.StartedAt)
	require.Greater(t, left, 4*time.Minute, "the timeout counts from the moment the sandbox is handed out")
	require.Less(t, left, 7*time.Minute)
}

func startedOnce(ctx context.Context, t *testing.T, b Backend, tpl warmpool.Template) {
	first, second := take(ctx, t, b, claimOf(tpl.Name)), take(ctx, t, b, claimOf(tpl.Name))
	require.NotEqual(t, first.Token.Reveal(), second.Token.Reveal())
	_, err := b.Start(ctx, first.ID, warmpool.Start{})
	requireCode(t, warmpool.Conflict, err)
	got, err := b.Get(ctx, first.ID)
	require.NoError(t, err)
	require.Equal(t, warmpool.Running, got.State)
	require.Equal(t, first.Token.Reveal(), got.Token.Reveal())
}

func claimByAlias(ctx context.Context, t *testing.T, b Backend, tpl warmpool.Template) {
	s := take(ctx, t, b, claimOf(tpl.Aliases[0]))
	require.Equal(t, tpl.Name, s.Template)
	require.Equal(t, tpl.Aliases, s.Aliases)
}

func claimsAreExclusive(ctx context.Context, t *testing.T, b Backend, tpl warmpool.Template) {
	n := min(max(tpl.Desired, 2), 8)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		seen = map[warmpool.ID]int{}
		errs []error
	)
	for range n {
		wg.Go(func() {
			s, err := b.Claim(ctx, claimOf(tpl.Name))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			seen[s.ID]++
		})
	}
	wg.Wait()
	t.Cleanup(func() {
		for id := range seen {
			release(b, id)
		}
	})
	require.Empty(t, errs)
	require.Len(t, seen, n, "a sandbox was handed out twice: %v", seen)
}

func listIsFiltered(ctx context.Context, t *testing.T, b Backend, tpl warmpool.Template) {
	mine := take(ctx, t, b, claimOf(tpl.Name))
	other := claimOf(tpl.Name)
	other.Principal.Team, other.Metadata = "team-b", map[string]string{"purpose": "other", "extra": "1"}
	theirs, err := b.Claim(ctx, other)
	require.NoError(t, err)
	t.Cleanup(func() { release(b, theirs.ID) })

	cases := []struct {
		name   string
		filter warmpool.Filter
		want   []warmpool.ID
	}{
		{"everything", warmpool.Filter{}, []warmpool.ID{mine.ID, theirs.ID}},
		{"one team", warmpool.Filter{Team: "team-a"}, []warmpool.ID{mine.ID}},
		{"a team without any", warmpool.Filter{Team: "team-c"}, nil},
		{"the template", warmpool.Filter{Template: tpl.Name}, []warmpool.ID{mine.ID, theirs.ID}},
		{"its alias", warmpool.Filter{Template: tpl.Aliases[0]}, []warmpool.ID{mine.ID, theirs.ID}},
		{"another template", warmpool.Filter{Template: "no-such-template"}, nil},
		{"metadata", warmpool.Filter{Metadata: map[string]string{"purpose": "other"}}, []warmpool.ID{theirs.ID}},
		{"metadata that must all match", warmpool.Filter{Metadata: map[string]string{"purpose": "contract", "extra": "1"}}, nil},
		{"metadata that is missing", warmpool.Filter{Metadata: map[string]string{"nothing": ""}}, nil},
		{"running", warmpool.Filter{States: []warmpool.State{warmpool.Running}}, []warmpool.ID{mine.ID}},
		{"claimed or running", warmpool.Filter{States: []warmpool.State{warmpool.Running, warmpool.Claimed}}, []warmpool.ID{mine.ID, theirs.ID}},
	}
	for _, c := range cases {
		got, err := b.List(ctx, c.filter)
		require.NoError(t, err, c.name)
		var ids []warmpool.ID
		for _, s := range got {
			ids = append(ids, s.ID)
		}
		require.ElementsMatch(t, c.want, ids, c.name)
	}
}

func deadlineMoves(ctx context.Context, t *testing.T, b Backend, tpl warmpool.Template) {
	s := take(ctx, t, b, claimOf(tpl.Name))
	steps := []struct {
		name string
		by   time.Duration // relative to the first end
		only bool
		want time.Duration
	}{
		{"an earlier end is ignored when only later ones count", -time.Minute, true, 0},
		{"a later end extends", time.Minute, true, time.Minute},
		{"an earlier end shortens", -2 * time.Minute, false, -2 * time.Minute},
		{"a later end extends without the condition too", 2 * time.Minute, false, 2 * time.Minute},
	}
	for _, step := range steps {
		got, err := b.SetDeadline(ctx, s.ID, warmpool.Deadline{At: s.EndAt.Add(step.by), OnlyLater: step.only})
		require.NoError(t, err, step.name)
		// Some stores keep whole seconds.
		require.WithinDuration(t, s.EndAt.Add(step.want), got.EndAt, time.Second, step.name)
		again, err := b.Get(ctx, s.ID)
		require.NoError(t, err, step.name)
		require.Equal(t, got.EndAt.UnixNano(), again.EndAt.UnixNano(), step.name)
	}
}

func deadlineEnds(ctx context.Context, t *testing.T, b Backend, tpl warmpool.Template) {
	s := take(ctx, t, b, claimOf(tpl.Name))
	_, err := b.SetDeadline(ctx, s.ID, warmpool.Deadline{At: s.StartedAt})
	require.NoError(t, err)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		_, err := b.Get(ctx, s.ID)
		require.Equal(c, warmpool.NotFound, warmpool.CodeOf(err))
	}, patience/2, 20*time.Millisecond)
}

func releaseEnds(ctx context.Context, t *testing.T, b Backend, tpl warmpool.Template) {
	s := take(ctx, t, b, claimOf(tpl.Name))
	require.NoError(t, b.Release(ctx, s.ID))
	_, err := b.Get(ctx, s.ID)
	requireCode(t, warmpool.NotFound, err)
	left, err := b.List(ctx, warmpool.Filter{})
	require.NoError(t, err)
	require.Empty(t, left)
	requireCode(t, warmpool.NotFound, b.Release(ctx, s.ID))
}

func unknownIDs(ctx context.Context, t *testing.T, b Backend, _ warmpool.Template) {
	id := warmpool.NewID()
	_, err := b.Get(ctx, id)
	requireCode(t, warmpool.NotFound, err)
	_, err = b.Start(ctx, id, warmpool.Start{})
	requireCode(t, warmpool.NotFound, err)
	_, err = b.SetDeadline(ctx, id, warmpool.Deadline{At: time.Now().Add(time.Hour)})
	requireCode(t, warmpool.NotFound, err)
	requireCode(t, warmpool.NotFound, b.Release(ctx, id))
	_, _, err = b.Publish(ctx, id, memoryAt("/data"))
	requireCode(t, warmpool.NotFound, err)
	requireCode(t, warmpool.NotFound, b.Unpublish(ctx, id, memoryAt("/data"), true))
}

// memoryAt is a volume in memory, as it is resolved.
func memoryAt(target string) mount.Mount {
	m := mount.Mount{
		Spec: mount.Spec{Volume: "memory", Target: target}, Driver: mount.DriverTmpfs, VolumeHandle: "handle-of-memory",
		Attributes: map[string]string{"size": "1Mi"}, Owner: mount.Owner{UID: 1000, GID: 1000},
	}
	m.ID = m.DerivedID()
	return m
}

func mountsChange(ctx context.Context, t *testing.T, b Backend, tpl warmpool.Template) {
	s := take(ctx, t, b, claimOf(tpl.Name))
	require.Equal(t, tpl.Containers, s.MadeFrom.Containers, "what a sandbox was made from is told with it")
	a := memoryAt("/data/a")
	st, made, err := b.Publish(ctx, s.ID, a)
	require.NoError(t, err)
	require.True(t, made)
	require.Equal(t, a.Spec, st.Spec)
	require.Equal(t, warmpool.MountReady, st.Phase)
	require.Equal(t, warmpool.MountLive, st.Verdict)
	require.False(t, st.MountedAt.IsZero())

	again, made, err := b.Publish(ctx, s.ID, a)
	require.NoError(t, err)
	require.False(t, made, "the same again makes nothing")
	require.Equal(t, a.ID, again.ID)
	for name, target := range map[string]string{"inside": "/data/a/in", "around": "/data"} {
		_, _, err = b.Publish(ctx, s.ID, memoryAt(target))
		requireCode(t, warmpool.Conflict, err)
		require.ErrorContains(t, err, "nested", name)
	}
	other := memoryAt("/data/a")
	other.Volume, other.VolumeHandle, other.ID = "other", "handle-of-other", "other"
	_, _, err = b.Publish(ctx, s.ID, other)
	requireCode(t, warmpool.Conflict, err)
	writer := memoryAt("/data/a")
	writer.ReadOnly = true
	_, _, err = b.Publish(ctx, s.ID, writer)
	requireCode(t, warmpool.Conflict, err)

	second := memoryAt("/data/b")
	_, made, err = b.Publish(ctx, s.ID, second)
	require.NoError(t, err)
	require.True(t, made)
	requireMounts(ctx, t, b, s.ID, a.ID, second.ID)
	require.NoError(t, b.Unpublish(ctx, s.ID, a, false))
	requireMounts(ctx, t, b, s.ID, second.ID)
	requireCode(t, warmpool.NotFound, b.Unpublish(ctx, s.ID, a, false))
	require.NoError(t, b.Unpublish(ctx, s.ID, second, true))
	requireMounts(ctx, t, b, s.ID)

	_, made, err = b.Publish(ctx, s.ID, writer)
	require.NoError(t, err)
	require.True(t, made, "the place is free")
}

// requireMounts holds what a sandbox tells of its mounts to the IDs; all of them work.
func ephemeral(ctx context.Context, t *testing.T, b Backend, tpl warmpool.Template) {
	c := claimOf(tpl.Name)
	var mounts []mount.Mount
	for _, spec := range []mount.Spec{
		{Volume: "state", Target: "/state", Ephemeral: mount.Ephemeral{Size: 1 << 20, Inodes: 64}},
		{Volume: "state", Target: "/seen", ReadOnly: true, Ephemeral: mount.Ephemeral{Size: 1 << 20, Inodes: 64}},
	} {
		spec.ID = spec.DerivedID()
		c.Mounts, mounts = append(c.Mounts, spec), append(mounts, spec.Resolve(tpl.Owner))
	}
	s, err := b.Claim(ctx, c)
	require.NoError(t, err)
	t.Cleanup(func() { release(b, s.ID) })
	_, err = b.Start(ctx, s.ID, warmpool.Start{Mounts: mounts})
	require.NoError(t, err)
	requireMounts(ctx, t, b, s.ID, c.Mounts[0].ID, c.Mounts[1].ID)
	s, err = b.Get(ctx, s.ID)
	require.NoError(t, err)
	for _, m := range s.Mounts {
		require.Contains(t, c.Mounts, m.Spec, "it is told as it was asked for")
	}
	other := mounts[0].Spec
	other.Target, other.Ephemeral.Size = "/other", 2<<20
	other.ID = other.DerivedID()
	_, _, err = b.Publish(ctx, s.ID, other.Resolve(tpl.Owner))
	requireCode(t, warmpool.Conflict, err)
	require.ErrorContains(t, err, "it is one volume")
}

func requireMounts(ctx context.Context, t *testing.T, b Backend, id warmpool.ID, want ...string) {
	t.Helper()
	s, err := b.Get(ctx, id)
	require.NoError(t, err)
	var have []string
	for _, m := range s.Mounts {
		require.Equal(t, warmpool.MountReady, m.Phase, "%s: %s", m.ID, m.Message)
		have = append(have, m.ID)
	}
	require.ElementsMatch(t, want, have)
}

func mountedAtOnce(ctx context.Context, t *testing.T, b Backend, tpl warmpool.Template) {
	s := take(ctx, t, b, claimOf(tpl.Name))
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() { _, _, errs[i] = b.Publish(ctx, s.ID, memoryAt("/data")) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	requireMounts(ctx, t, b, s.ID, memoryAt("/data").ID)
}

func mountsOfTheRunning(ctx context.Context, t *testing.T, b Backend, tpl warmpool.Template) {
	s, err := b.Claim(ctx, claimOf(tpl.Name))
	require.NoError(t, err)
	t.Cleanup(func() { release(b, s.ID) })
	_, _, err = b.Publish(ctx, s.ID, memoryAt("/data"))
	requireCode(t, warmpool.NotFound, err)
	requireCode(t, warmpool.NotFound, b.Unpublish(ctx, s.ID, memoryAt("/data"), true))
}

func exhausted(ctx context.Context, t *testing.T, b Backend, tpl warmpool.Template) {
	limit, ok := b.(bounded)
	if !ok {
		t.Skip("this backend has no fixed capacity")
	}
	for range limit.Capacity(tpl.Name) {
		s, err := b.Claim(ctx, claimOf(tpl.Name))
		require.NoError(t, err)
		t.Cleanup(func() { release(b, s.ID) })
	}
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err := b.Claim(short, claimOf(tpl.Name))
	requireCode(t, warmpool.Exhausted, err)
}

func cancelledClaim(ctx context.Context, t *testing.T, b Backend, tpl warmpool.Template) {
	dead, cancel := context.WithCancel(ctx)
	cancel()
	_, err := b.Claim(dead, claimOf(tpl.Name))
	require.Error(t, err)
	left, err := b.List(ctx, warmpool.Filter{})
	require.NoError(t, err)
	require.Empty(t, left)
}
