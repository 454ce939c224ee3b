package faults_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheMountsOfOneMachineAreCounted(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := free.Addr().String()
	require.NoError(t, free.Close())
	s := begin(t, "-metrics-addr", address)
	sb, err := s.Create(t.Context(), "pool", three)
	require.NoError(t, err)
	scrape := func() (string, error) {
		res, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		return string(text), err
	}
	scraped := func() string {
		t.Helper()
		text, err := scrape()
		require.NoError(t, err)
		return text
	}
	count := func(phase, verdict string, n int) string {
		return fmt.Sprintf("sandgate_mounts{driver=\"ossplugin.csi.alibabacloud.com\",phase=%q,verdict=%q} %d\n", phase, verdict, n)
	}
	text := scraped()
	require.Contains(t, text, count("Mounted", "live", 1))
	require.Contains(t, text, count("Failed", "hung", 0))
	require.Contains(t, text, `sandgate_pool_claimed{namespace="default",pool="pool"} 1`)
	s.signal(t, syscall.SIGSTOP, s.pids(t, "s3fs", sb.ID)...)
	require.Eventually(t, func() bool {
		text, err := scrape()
		return err == nil && strings.Contains(text, count("Failed", "hung", 1))
	}, 25*time.Second, 200*time.Millisecond, "what its watcher has seen")
	s.signal(t, syscall.SIGCONT, s.pids(t, "s3fs", sb.ID)...)
	require.NoError(t, s.Kill(t.Context(), sb))
	require.NotContains(t, scraped(), "sandgate_mounts{")
	s.settled(t)
}
