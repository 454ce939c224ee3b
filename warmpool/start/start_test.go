package start_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/start"
)

func mounts(names ...string) (out []mount.Mount) {
	for _, name := range names {
		out = append(out, mount.Mount{Spec: mount.Spec{ID: "id-" + name, Volume: name, Target: "/" + name}})
	}
	return out
}

// wait is a step that never gets done by itself.
func wait(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestWhatGoesWrongBecomesOneError(t *testing.T) {
	denied := fmt.Errorf("%w: no such key", mount.ErrDenied)
	coded := &warmpool.Error{Code: warmpool.Unavailable, Message: "the agent is too old"}
	for _, c := range []struct {
		name        string
		faults      map[string]error // by volume; "wait" ones wait until they are cancelled
		waits       []string
		init        error
		initWaits   bool
		code        warmpool.Code // empty: no error
		unreachable bool
		says        []string
		volumes     []string // that have a message of their own
	}{
		{name: "nothing"},
		{name: "a volume is refused and the daemon cancelled", faults: map[string]error{"a": denied}, initWaits: true,
			code: warmpool.Denied, says: []string{"'a' at /a", "no such key"}, volumes: []string{"id-a"}},
		{name: "a volume that is not there is the request's fault", faults: map[string]error{"a": mount.ErrNotFound},
			code: warmpool.Invalid, says: []string{"'a' at /a"}, volumes: []string{"id-a"}},
		{name: "faults have their own words", faults: map[string]error{"a": mount.Faults{{Field: mount.FieldTarget, Reason: "is odd"}}},
			code: warmpool.Invalid, says: []string{"is odd"}, volumes: []string{"id-a"}},
		{name: "a target that is taken", faults: map[string]error{"a": node.ErrConflict}, code: warmpool.Conflict, says: []string{"taken"}, volumes: []string{"id-a"}},
		{name: "an unknown fault is not told", faults: map[string]error{"a": errors.New("inode 7")}, code: warmpool.Internal, says: []string{"in the log"}, volumes: []string{"id-a"}},
		{name: "a coded fault is told as it is", faults: map[string]error{"a": coded}, code: warmpool.Unavailable, says: []string{"too old"}, volumes: []string{"id-a"}},
		{name: "the others were cancelled and are not to blame", faults: map[string]error{"b": denied}, waits: []string{"a"},
			code: warmpool.Denied, says: []string{"'b' at /b"}, volumes: []string{"id-b"}},
		{name: "a daemon that refuses", init: initialize.ErrRefused, waits: []string{"a"}, code: warmpool.Unavailable, unreachable: true, says: []string{"taken over"}},
		{name: "a daemon that is not there", init: errors.New("refused"), waits: []string{"a"}, code: warmpool.Unavailable, unreachable: true, says: []string{"does not answer"}},
		{name: "an agent that is not there", faults: map[string]error{"a": warmpool.ErrUnreachable}, initWaits: true,
			code: warmpool.Unavailable, unreachable: true, says: []string{"could not be mounted"}, volumes: []string{"id-a"}},
		{name: "a volume's own fault goes before an agent that is not there", faults: map[string]error{"a": warmpool.ErrUnreachable, "b": denied},
			code: warmpool.Denied, says: []string{"no such key"}, volumes: []string{"id-a", "id-b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			steps := start.Steps{
				Mounts: mounts("a", "b"),
				Publish: func(ctx context.Context, m mount.Mount) error {
					for _, w := range c.waits {
						if w == m.Volume {
							return wait(ctx)
						}
					}
					return c.faults[m.Volume]
				},
				Init: func(ctx context.Context) error {
					if c.initWaits {
						return wait(ctx)
					}
					return c.init
				},
			}
			r := start.Together(t.Context(), steps)
			var failed []string
			for id := range r.Volumes() {
				failed = append(failed, id)
			}
			require.ElementsMatch(t, c.volumes, failed)
			if c.code == "" {
				require.NoError(t, r.Err())
				return
			}
			require.Error(t, r.Err())
			require.Equal(t, c.code, warmpool.CodeOf(r.Err()))
			require.Equal(t, c.unreachable, errors.Is(r.Err(), warmpool.ErrUnreachable))
			for _, text := range c.says {
				require.Contains(t, start.Message(r.Err()), text)
			}
		})
	}
}

func TestWhatIsTooLateSaysWhatItWaitedFor(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	r := start.Together(ctx, start.Steps{
		Mounts:  mounts("slow"),
		Publish: func(ctx context.Context, _ mount.Mount) error { return wait(ctx) },
		Init:    func(context.Context) error { return nil },
	})
	require.Equal(t, warmpool.Unavailable, warmpool.CodeOf(r.Err()))
	require.NotErrorIs(t, r.Err(), warmpool.ErrUnreachable)
	require.Contains(t, start.Message(r.Err()), "'slow' at /slow was not mounted in time")
}
