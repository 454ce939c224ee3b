package envd

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPooledBuffersAreGivenBackToo(t *testing.T) {
	var pool sync.Pool
	pool.Put(new([1 << 20]byte))
	giveBack()
	require.Nil(t, pool.Get())
}
