package local

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/warmpool"
)

func TestASandboxWhoseOwnerStopsItsDaemonHoldsUpNoStart(t *testing.T) {
	r := onThisMachine(t, aReal("base", 1))
	s := r.start(claimOf("base"), scratch("/data"))
	_, err := r.sh(s.ID, 0, "kill -STOP $(pidof envd)")
	require.NoError(t, err)
	r.stop()
	began := time.Now()
	r.run()
	got, err := r.Get(t.Context(), s.ID)
	require.NoError(t, err)
	require.Less(t, time.Since(began), 3*adoptPatience)
	require.Equal(t, warmpool.Running, got.State, "it is its owner's, who may let it go on")
	require.NoError(t, r.Release(t.Context(), s.ID))
}
