package kube_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/kube"
)

// ask sends a request to a sandbox's daemon.
func ask(t *testing.T, d *daemon, method, path, token string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+d.ip+":49983"+path, nil)
	require.NoError(t, err)
	r.Header.Set(initialize.Header, token)
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(body)
}

func TestAStartedSandboxIsItsOwnersAlone(t *testing.T) {
	w := newWorld(t)
	w.set("base", 1)
	b := w.replica()
	w.stocked(b, "base", 1)
	c := order("base")
	c.Env = map[string]string{"MINE": "1"}
	s, err := create(t.Context(), b, c)
	require.NoError(t, err)
	d := w.daemon(s.ID)
	code, _ := ask(t, d, http.MethodGet, "/envs", "somebody")
	require.Equal(t, http.StatusUnauthorized, code)
	code, body := ask(t, d, http.MethodGet, "/envs", s.Token.Reveal())
	require.Equal(t, http.StatusOK, code)
	require.JSONEq(t, fmt.Sprintf(
		`{"MINE":"1","FROM_TEMPLATE":"yes","E2B_SANDBOX":"true","E2B_SANDBOX_ID":"%s","E2B_TEMPLATE_ID":"base"}`, s.ID), body)

	other := w.replica()
	again, err := other.Get(t.Context(), s.ID)
	require.NoError(t, err)
	require.Equal(t, s.Token.Reveal(), again.Token.Reveal(), "every replica knows the token")
	require.Equal(t, warmpool.Running, again.State)

	usage, err := other.Usage(t.Context(), s.ID)
	require.NoError(t, err)
	require.Len(t, usage, 1)
	require.Positive(t, usage[0].MemTotal)
	require.WithinDuration(t, time.Now(), usage[0].At, 5*time.Second)
}

func TestWhatAStartMeets(t *testing.T) {
	spec := mount.Spec{ID: "m1", Volume: "pv", Target: "/data"}
	m := mount.Mount{Spec: spec, Driver: mount.DriverTmpfs, VolumeHandle: "h"}
	for _, c := range []struct {
		name        string
		publish     error
		daemon      func(http.Handler) http.Handler
		code        warmpool.Code
		unreachable bool
		final       bool
		says        string
		logged      string
	}{
		{name: "a volume that is refused", publish: fmt.Errorf("%w: wrong key", mount.ErrDenied), code: warmpool.Denied, says: "wrong key"},
		{name: "an agent that cannot be reached", publish: channel.ErrUnreachable, code: warmpool.Unavailable, unreachable: true, logged: "sandbox unreachable"},
		{name: "an agent without its sandbox", publish: fmt.Errorf("%w: %w", channel.ErrUnreachable, channel.ErrNotReady), code: warmpool.Unavailable, unreachable: true},
		{name: "an agent that is too old", publish: fmt.Errorf("%w (it is version %q)", channel.ErrTooOld, "v0"), code: warmpool.Unavailable, final: true,
			says: "sandbox-injection-config"},
		{name: "a daemon that does not answer", code: warmpool.Unavailable, unreachable: true, says: "daemon",
			daemon: func(http.Handler) http.Handler {
				return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
			}},
		{name: "a daemon that is somebody else's already", code: warmpool.Unavailable, unreachable: true, logged: "belonged to somebody else",
			daemon: func(http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			if c.daemon != nil {
				w.handler.Store(&c.daemon)
			}
			w.agents.onPublish = func(context.Context, string, mount.Mount) error { return c.publish }
			w.set("base", 1)
			b := w.replica()
			w.stocked(b, "base", 1)
			o := order("base")
			o.Mounts = []mount.Spec{spec}
			s, err := b.Claim(t.Context(), o)
			require.NoError(t, err)
			_, err = b.Start(t.Context(), s.ID, warmpool.Start{Mounts: []mount.Mount{m}})
			require.Equal(t, c.code, warmpool.CodeOf(err), "%v", err)
			var e *warmpool.Error
			require.ErrorAs(t, err, &e)
			require.Contains(t, e.Message, c.says)
			require.Equal(t, c.final, e.Final)
			if c.unreachable {
				require.ErrorIs(t, err, warmpool.ErrUnreachable)
			} else {
				require.NotErrorIs(t, err, warmpool.ErrUnreachable)
			}
			require.True(t, w.log.has(c.logged))
			_, err = b.Get(t.Context(), s.ID)
			require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))
			require.Eventually(t, func() bool { return len(w.objects()) == 0 }, 10*time.Second, 20*time.Millisecond, "it is ended")
		})
	}
}

func TestASandboxThatIsReleasedWhileItStartsIsGone(t *testing.T) {
	w := newWorld(t)
	w.set("base", 1)
	b := w.replica()
	w.stocked(b, "base", 1)
	publishing := make(chan struct{})
	w.agents.onPublish = func(ctx context.Context, _ string, _ mount.Mount) error {
		close(publishing)
		<-ctx.Done()
		return ctx.Err()
	}
	s, err := b.Claim(t.Context(), order("base"))
	require.NoError(t, err)
	started := make(chan error)
	go func() {
		_, err := b.Start(t.Context(), s.ID, warmpool.Start{Mounts: []mount.Mount{{Spec: mount.Spec{ID: "m", Volume: "v", Target: "/v"}}}})
		started <- err
	}()
	<-publishing
	require.NoError(t, b.Release(t.Context(), s.ID))
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(<-started))
	require.Eventually(t, func() bool { return len(w.objects()) == 0 }, 10*time.Second, 20*time.Millisecond)
}

func TestASlowVolumeDoesNotCostTheSandboxItsTime(t *testing.T) {
	w := newWorld(t)
	w.set("base", 1)
	b := w.replica()
	w.stocked(b, "base", 1)
	var mounted time.Time
	w.agents.onPublish = func(ctx context.Context, _ string, _ mount.Mount) error {
		select {
		case <-time.After(4 * time.Second):
		case <-ctx.Done():
		}
		mounted = time.Now()
		return ctx.Err()
	}
	c := order("base")
	c.Timeout = 15 * time.Second
	s, err := b.Claim(t.Context(), c)
	require.NoError(t, err)
	s, err = b.Start(t.Context(), s.ID, warmpool.Start{Mounts: []mount.Mount{{Spec: mount.Spec{ID: "m", Volume: "v", Target: "/v"}}}})
	require.NoError(t, err)
	lasts(t, mounted, 15*time.Second, s.EndAt)
}

func TestAGatewayThatDiesAfterAClaimLeavesASandboxWithAnEnd(t *testing.T) {
	w := newWorld(t)
	w.set("base", 1)
	b := w.replica()
	w.stocked(b, "base", 1)
	c := order("base")
	c.Timeout = 15 * time.Second
	begin := time.Now()
	s, err := b.Claim(t.Context(), c) // and never a Start
	require.NoError(t, err)
	end := w.object(s.ID).Spec.ShutdownTime
	require.NotNil(t, end)
	lasts(t, begin, 15*time.Second, end.Time)
	other := w.replica(func(*kube.Config) {})
	_, err = other.Claim(t.Context(), order("nothing"))
	require.Error(t, err)
	w.stocked(other, "base", 0) // it is nobody's stock
}
