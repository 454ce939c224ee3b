package local

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestALockThatIsGivenBackInAMomentIsWaitedFor(t *testing.T) {
	l := layout(t.TempDir())
	unlock, err := l.lock()
	require.NoError(t, err)
	soon := time.AfterFunc(100*time.Millisecond, unlock)
	defer soon.Stop()
	again, err := l.lock()
	require.NoError(t, err)
	again()
}

func TestALockThatIsHeldIsRefusedWithItsHolder(t *testing.T) {
	l := layout(t.TempDir())
	unlock, err := l.lock()
	require.NoError(t, err)
	defer unlock()
	_, err = l.lock()
	require.ErrorContains(t, err, "is using it; stop that process first")
}
