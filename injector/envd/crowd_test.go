package envd

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestACrowdWaitsAndIsRefusedInTheEnd(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	h := crowd(1, 50*time.Millisecond, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hangs" {
			close(begun)
			<-end
		}
	}))
	get := func(ctx context.Context, path string) int {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil))
		return rec.Code
	}
	first := make(chan int, 1)
	go func() { first <- get(t.Context(), "/hangs") }()
	<-begun
	require.Equal(t, http.StatusServiceUnavailable, get(t.Context(), "/"))
	gone, leave := context.WithCancel(t.Context())
	leave()
	get(gone, "/") // returns
	close(end)
	require.Equal(t, http.StatusOK, <-first)
	require.Equal(t, http.StatusOK, get(t.Context(), "/"))
}
