package gateway_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest"
)

func remembering(t *testing.T, stock int) (*gateway.Service, *warmpooltest.Memory) {
	t.Helper()
	w := newWorld(t, stock)
	s, err := gateway.New(gateway.Config{
		Backend: &warmpooltest.Remembering{Memory: w.pool}, Reader: warmpooltest.Volumes{}, Policy: mount.DefaultPolicy(),
		Limits: gateway.DefaultLimits(), Clock: w.clock, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	require.NoError(t, err)
	return s, w.pool
}

func keyed(key string, change ...func(*warmpool.Claim)) warmpool.Claim {
	c := claim()
	c.IdempotencyKey, c.Metadata = key, map[string]string{"a": "1", "b": "2"}
	for _, f := range change {
		f(&c)
	}
	return c
}

func TestARequestWithAKeyMakesOneSandbox(t *testing.T) {
	s, pool := remembering(t, 10)
	first, err := s.Create(t.Context(), keyed("k"))
	require.NoError(t, err)
	for _, c := range []struct {
		name  string
		claim warmpool.Claim
		same  bool
		code  warmpool.Code
	}{
		{name: "the same again", claim: keyed("k"), same: true},
		{name: "another key", claim: keyed("k2")},
		{name: "the key of another principal of the team", claim: keyed("k", func(c *warmpool.Claim) { c.Principal.Key = "k9" })},
		{name: "the key of another team", claim: keyed("k", func(c *warmpool.Claim) { c.Principal = bob })},
		{name: "no key", claim: keyed("")},
		{name: "another template", claim: keyed("k", func(c *warmpool.Claim) { c.Template = "plain" }), code: warmpool.Mismatch},
		{name: "another timeout", claim: keyed("k", func(c *warmpool.Claim) { c.Timeout = time.Hour }), code: warmpool.Mismatch},
		{name: "other metadata", claim: keyed("k", func(c *warmpool.Claim) { c.Metadata["b"] = "3" }), code: warmpool.Mismatch},
		{name: "another environment", claim: keyed("k", func(c *warmpool.Claim) { c.Env = map[string]string{"A": "b"} }), code: warmpool.Mismatch},
		{name: "a key that is too long", claim: keyed(strings.Repeat("k", 256)), code: warmpool.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := pool.Claimed()
			got, err := s.Create(t.Context(), c.claim)
			if c.code != "" {
				require.Equal(t, c.code, warmpool.CodeOf(err), "%v", err)
				require.Equal(t, before, pool.Claimed())
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.same, got.ID == first.ID)
			require.Equal(t, c.same, pool.Claimed() == before)
			require.Equal(t, c.same, got.Token.Reveal() == first.Token.Reveal())
		})
	}
	require.NoError(t, s.Kill(t.Context(), alice, first.ID))
	_, err = s.Create(t.Context(), keyed("k"))
	require.Equal(t, warmpool.Conflict, warmpool.CodeOf(err), "what is gone is not made again under its key")
}

func TestAKeyWhoseCreateFailedCanBeUsedAgain(t *testing.T) {
	s, pool := remembering(t, 2)
	broken := true
	pool.OnStart = func(context.Context, warmpool.ID, warmpool.Start) error {
		if broken {
			return warmpool.Errorf(warmpool.Unavailable, "not now")
		}
		return nil
	}
	_, err := s.Create(t.Context(), keyed("k"))
	require.Equal(t, warmpool.Unavailable, warmpool.CodeOf(err))
	broken = false
	_, err = s.Create(t.Context(), keyed("k"))
	require.NoError(t, err)
	require.Equal(t, 1, pool.Claimed())
}

func TestOfManyWithOneKeyOneMakesASandbox(t *testing.T) {
	s, pool := remembering(t, 50)
	pool.OnStart = func(ctx context.Context, _ warmpool.ID, _ warmpool.Start) error {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
		return nil
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	ids, conflicts := map[warmpool.ID]bool{}, 0
	for range 50 {
		wg.Go(func() {
			sb, err := s.Create(t.Context(), keyed("k"))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				conflicts++
				require.Equal(t, warmpool.Conflict, warmpool.CodeOf(err))
				return
			}
			ids[sb.ID] = true
		})
	}
	wg.Wait()
	require.Len(t, ids, 1)
	require.Positive(t, conflicts)
	require.Equal(t, 1, pool.Claimed())
}

// forgetful cannot keep what was made.
type forgetful struct{ *warmpooltest.Memory }

func (forgetful) Remember(context.Context, warmpool.Principal, string, string) (warmpool.Record, error) {
	return warmpool.Record{
		Keep:   func(context.Context, warmpool.ID) error { return errors.New("the store is gone") },
		Forget: func(context.Context) error { return errors.New("the store is gone") },
	}, nil
}

func TestWhatCannotBeRememberedIsNotHandedOut(t *testing.T) {
	w := newWorld(t, 1)
	s, err := gateway.New(gateway.Config{
		Backend: forgetful{w.pool}, Reader: warmpooltest.Volumes{}, Policy: mount.DefaultPolicy(), Limits: gateway.DefaultLimits(),
		Clock: w.clock, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	require.NoError(t, err)
	_, err = s.Create(t.Context(), keyed("k"))
	require.Equal(t, warmpool.Unavailable, warmpool.CodeOf(err))
	require.Zero(t, w.pool.Claimed())
}

func TestABackendWithoutAMemorySaysSo(t *testing.T) {
	w := newWorld(t, 1)
	_, err := w.Create(t.Context(), keyed("k"))
	require.Equal(t, warmpool.Unsupported, warmpool.CodeOf(err))
	require.Zero(t, w.pool.Claimed())
}
