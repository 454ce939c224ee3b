package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSpareThreadsAreThere(t *testing.T) {
	spareThreads(32)
	tasks, err := os.ReadDir("/proc/self/task")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(tasks), 32)
}
