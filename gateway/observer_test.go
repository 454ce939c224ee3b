package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest"
)

// phases are those that a request went through, with their ends.
type phases struct {
	mu  sync.Mutex
	all []string
}

func (p *phases) Phase(ctx context.Context, phase, _ string) (context.Context, func(error)) {
	p.add("+" + phase)
	return ctx, func(err error) {
		if err != nil {
			phase += "!"
		}
		p.add("-" + phase)
	}
}

func (p *phases) add(s string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, s)
}

func TestEveryCallThatChangesSomethingIsWrittenDown(t *testing.T) {
	w := newWorld(t, 1)
	var log bytes.Buffer
	seen := &phases{}
	s, err := gateway.New(gateway.Config{
		Backend: w.pool, Reader: warmpooltest.Volumes{"scratch": warmpooltest.TmpfsVolume("scratch")}, Policy: mount.DefaultPolicy(),
		Limits: gateway.DefaultLimits(), Clock: w.clock, Observer: seen, Logger: slog.New(slog.NewJSONHandler(&log, nil)),
	})
	require.NoError(t, err)
	ctx := gateway.WithRequestID(t.Context(), "req-1")
	c := claim(mount.Spec{Volume: "scratch", Target: "/data", ReadOnly: true})
	c.Env = map[string]string{"A": "canary"}
	sb, err := s.Create(ctx, c)
	require.NoError(t, err)
	require.Equal(t, []string{"+create", "+resolve", "-resolve", "+claim", "-claim", "+start", "-start", "-create"}, seen.all)
	_, err = s.Create(ctx, c)
	require.Error(t, err)
	require.True(t, slices.Contains(seen.all, "-claim!"))
	_, err = s.Connect(ctx, alice, sb.ID, time.Hour)
	require.NoError(t, err)
	require.NoError(t, s.SetTimeout(ctx, alice, sb.ID, time.Hour))
	require.NoError(t, s.Refresh(ctx, alice, sb.ID, time.Hour))
	seen.all = nil
	_, _, err = s.Mount(ctx, alice, sb.ID, spec(func(s *mount.Spec) { s.Target, s.ID = "/more", "more" }))
	require.NoError(t, err)
	_, _, err = s.Mount(ctx, alice, sb.ID, spec(func(s *mount.Spec) { s.Target = "/more/in" }))
	require.Error(t, err)
	_, err = s.Unmount(ctx, alice, sb.ID, "more", true)
	require.NoError(t, err)
	require.Equal(t, []string{"+publish", "-publish", "+publish", "-publish!", "+unpublish", "-unpublish"}, seen.all)
	require.Error(t, s.Kill(ctx, bob, sb.ID))
	_, err = s.Get(ctx, alice, sb.ID)
	require.NoError(t, err)
	require.NoError(t, s.Kill(ctx, alice, sb.ID))

	require.NotContains(t, log.String(), "canary")
	type line struct {
		Msg, Request, Action, Team, Key, Sandbox, Outcome, Template, Mount, Volume string

		Mounts []string
	}
	var got []line
	for _, raw := range bytes.Split(bytes.TrimSpace(log.Bytes()), []byte("\n")) {
		var l line
		require.NoError(t, json.Unmarshal(raw, &l))
		if l.Msg == "audit" {
			require.Equal(t, "req-1", l.Request)
			got = append(got, line{Action: l.Action, Team: l.Team, Key: l.Key, Sandbox: l.Sandbox, Outcome: l.Outcome, Template: l.Template, Mount: l.Mount, Volume: l.Volume, Mounts: l.Mounts})
		}
	}
	id, mounts := string(sb.ID), []string{"scratch:/data:ro"}
	require.Equal(t, []line{
		{Action: "create", Team: "alice", Key: "k1", Sandbox: id, Outcome: "ok", Template: "base", Mounts: mounts},
		{Action: "create", Team: "alice", Key: "k1", Outcome: string(warmpool.Exhausted), Template: "base", Mounts: mounts},
		{Action: "connect", Team: "alice", Key: "k1", Sandbox: id, Outcome: "ok"},
		{Action: "timeout", Team: "alice", Key: "k1", Sandbox: id, Outcome: "ok"},
		{Action: "refresh", Team: "alice", Key: "k1", Sandbox: id, Outcome: "ok"},
		{Action: "mount", Team: "alice", Key: "k1", Sandbox: id, Outcome: "ok", Mount: "more", Volume: "scratch:/more"},
		{Action: "mount", Team: "alice", Key: "k1", Sandbox: id, Outcome: string(warmpool.Conflict), Mount: spec(func(s *mount.Spec) { s.Target = "/more/in" }).ID, Volume: "scratch:/more/in"},
		{Action: "unmount", Team: "alice", Key: "k1", Sandbox: id, Outcome: "ok", Mount: "more", Volume: "scratch:/more"},
		{Action: "kill", Team: "bob", Key: "k2", Sandbox: id, Outcome: string(warmpool.NotFound)},
		{Action: "kill", Team: "alice", Key: "k1", Sandbox: id, Outcome: "ok"},
	}, got)
}
