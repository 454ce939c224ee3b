package proxy

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// body is a request's body over HTTP/1 that can be closed while somebody waits in Read. The sandbox may answer before the
// client has said everything; the transport is then still reading when the answer is over, and the server must not begin to
// read the next request before that has stopped.
type body struct {
	io.ReadCloser
	control *http.ResponseController

	reading sync.Mutex // held while the client's connection is read
	closed  atomic.Bool
	once    sync.Once
	err     error // of closing
}

// guard puts a body before r's, where one is needed.
func guard(w http.ResponseWriter, r *http.Request) *http.Request {
	if r.ProtoMajor != 1 || r.Body == nil || r.Body == http.NoBody {
		return r
	}
	guarded := *r
	guarded.Body = &body{ReadCloser: r.Body, control: http.NewResponseController(w)}
	return &guarded
}

func (b *body) Read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	return b.ReadCloser.Read(p)
}

// Close ends a Read that is waiting, and lets the server skip the rest of the body. It returns when that is done, also to the
// second who calls it: the transport and the handler both do.
func (b *body) Close() error {
	b.once.Do(func() { b.err = b.close() })
	return b.err
}

func (b *body) close() error {
	b.closed.Store(true)
	if !b.reading.TryLock() {
		// A deadline in the past is the only way to end a read and keep the connection for writing.
		if err := b.control.SetReadDeadline(time.Unix(1, 0)); err != nil {
			return b.ReadCloser.Close()
		}
		b.reading.Lock()
		if err := b.control.SetReadDeadline(time.Time{}); err != nil {
			b.reading.Unlock()
			return err
		}
	}
	defer b.reading.Unlock()
	return b.ReadCloser.Close()
}
