package oss

import (
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The kernel tells of a client's end before it has been reaped: who asks in between is told what is known.
func TestTheEndOfAClientThatIsNotReapedYetIsTold(t *testing.T) {
	log, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	d := New(Config{Logger: slog.New(slog.DiscardHandler)})
	c := &client{log: log, done: make(chan struct{}), redact: redactor(credentials{})}
	begin := time.Now()
	require.ErrorIs(t, d.reason(t.Context(), c, errEnded), errUnsaid)
	require.GreaterOrEqual(t, time.Since(begin), explainGrace, "it was waited for")
}
