package kube

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sandgate-dev/sandgate/warmpool"
)

// Knows is the version of a sandbox's object that this replica knows, empty for none.
func (b *Backend) Knows(id warmpool.ID) string {
	if sb, _ := b.shelf.find(id); sb != nil {
		return sb.ResourceVersion
	}
	return ""
}

// AwaitWaiters waits until so many claims stand in line for a set.
func (b *Backend) AwaitWaiters(t *testing.T, set types.UID, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		b.shelf.mu.Lock()
		defer b.shelf.mu.Unlock()
		return b.shelf.pileOf(set).waiters.Len() == n
	}, 10*time.Second, time.Millisecond)
}
