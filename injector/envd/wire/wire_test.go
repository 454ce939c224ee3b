package wire

import (
	"context"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
)

func TestTheCallerChoosesTheIntervalWithinReason(t *testing.T) {
	for asked, want := range map[string]time.Duration{
		"": 90 * time.Second, "50": 50 * time.Second, "1": time.Second, "86400": 24 * time.Hour,
		"0": 90 * time.Second, "-1": 90 * time.Second, "86401": 90 * time.Second, "9223372036854775807": 90 * time.Second, "soon": 90 * time.Second,
	} {
		require.Equal(t, want, Keepalive(http.Header{"Keepalive-Ping-Interval": {asked}}), "%q", asked)
	}
}

func TestATimeoutIsNoCancellation(t *testing.T) {
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	require.Equal(t, connect.CodeDeadlineExceeded, connect.CodeOf(Ended(late, "watch")))
	require.ErrorContains(t, Ended(late, "watch"), "the watch reached its timeout")
	gone, leave := context.WithCancel(t.Context())
	leave()
	require.Equal(t, connect.CodeCanceled, connect.CodeOf(Ended(gone, "watch")))
}
