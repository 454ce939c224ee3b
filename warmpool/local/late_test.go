package local

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
)

func TestAVolumeThatIsNotThereInTimeIsNamed(t *testing.T) {
	f := newFake()
	f.publish = func(ctx context.Context, m mount.Mount) error {
		if m.Volume == "slow" {
			<-ctx.Done()
		}
		return ctx.Err()
	}
	w := begin(t, f, nil, aSet("base", 0))
	s, err := w.Claim(t.Context(), claimOf("base"))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = w.Start(ctx, s.ID, warmpool.Start{Mounts: mounts("good", "slow")})
	requireCode(t, warmpool.Unavailable, err)
	var e *warmpool.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, "the sandbox was not ready within the request's time: volume 'slow' at /slow was not mounted in time", e.Message)
}
