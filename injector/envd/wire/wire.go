// Package wire holds what the daemon's services have in common on the Connect wire: how large a message may be, how
// often a silent stream is kept alive, and how a stream that nothing was wrong with ends. It knows no service.
package wire

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"
)

// MaxMessage bounds one message of a caller, as it is sent and as it is when decompressed. It is far above what a
// command's arguments can be; only input for a command comes near, which a caller may cut as he likes.
const MaxMessage = 64 << 20

// Options are every handler's. Compressed requests are read, but answers are never compressed: the way to the gateway
// is short, and each stream's compressor would cost a megabyte.
func Options() []connect.HandlerOption {
	return []connect.HandlerOption{connect.WithReadMaxBytes(MaxMessage), connect.WithCompressMinBytes(math.MaxInt)}
}

// defaultKeepalive is upstream's, maxKeepalive keeps the seconds asked for within what a duration can say.
const (
	defaultKeepalive = 90 * time.Second
	maxKeepalive     = 24 * 60 * 60
)

// Keepalive is the interval that a stream's caller asks for, in seconds.
func Keepalive(h http.Header) time.Duration {
	n, err := strconv.Atoi(h.Get("Keepalive-Ping-Interval"))
	if err != nil || n < 1 || n > maxKeepalive {
		return defaultKeepalive
	}
	return time.Duration(n) * time.Second
}

// Ended is the error of a stream or call whose ctx has ended: its timeout, or its caller went.
func Ended(ctx context.Context, what string) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return connect.NewError(connect.CodeDeadlineExceeded, fmt.Errorf("the %s reached its timeout", what))
	}
	return connect.NewError(connect.CodeCanceled, ctx.Err())
}
