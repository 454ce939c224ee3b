package kube

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"
)

// AwaitWaiters waits until so many claims stand in line for a set.
func (b *Backend) AwaitWaiters(t *testing.T, set types.UID, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		b.shelf.mu.Lock()
		defer b.shelf.mu.Unlock()
		return b.shelf.pileOf(set).waiters.Len() == n
	}, 10*time.Second, time.Millisecond)
}
