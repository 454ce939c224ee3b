// Package tunnel reaches services on a sandbox's own loopback from outside, where only its daemon's port can be dialled: development
// servers listen there by default. It is both ends of an HTTP CONNECT to the daemon; who may make one is the daemon's guard to say.
package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
)

// ErrRefused says that nobody listens on the port.
var ErrRefused = errors.New("nobody listens on the sandbox's loopback")

// dialTimeout bounds a connection within one host.
const dialTimeout = 2 * time.Second

// Or serves CONNECT localhost:PORT, and everything else with next.
func Or(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			next.ServeHTTP(w, r)
			return
		}
		host, text, err := net.SplitHostPort(r.Host)
		port, bad := strconv.ParseUint(text, 10, 16)
		if err != nil || bad != nil || port == 0 || host != "localhost" {
			http.Error(w, "CONNECT: want localhost:PORT", http.StatusBadRequest)
			return
		}
		serve(w, r, text)
	})
}

func serve(w http.ResponseWriter, r *http.Request, port string) {
	there, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(r.Context(), "tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		there, err = (&net.Dialer{Timeout: dialTimeout}).DialContext(r.Context(), "tcp", net.JoinHostPort("::1", port))
	}
	if err != nil {
		http.Error(w, "nobody listens on port "+port, http.StatusBadGateway)
		return
	}
	defer there.Close()
	here, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "CONNECT needs HTTP/1.1", http.StatusHTTPVersionNotSupported)
		return
	}
	defer here.Close()
	if here.SetDeadline(time.Time{}) != nil {
		return
	}
	if _, err := io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	join(here, buffered.Reader, there)
}

// join passes bytes on both ways until both have ended. The end of one way is passed on, too: protocols wait for it.
func join(here net.Conn, begun io.Reader, there net.Conn) {
	var group errgroup.Group
	group.Go(func() error { return pass(there, begun) })
	group.Go(func() error { return pass(here, there) })
	_ = group.Wait() // the connections say to their ends what became of them
}

func pass(to net.Conn, from io.Reader) error {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		return half.CloseWrite()
	}
	return errors.Join(err, to.Close())
}

// Through makes a connection to the daemon one to a port of the sandbox's loopback. It closes c when that fails; ErrRefused when nobody
// listens.
func Through(ctx context.Context, c net.Conn, port uint16, token string) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	out, err := through(c, port, token)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("port %d: %w", port, err)
	}
	return out, nil
}

func through(c net.Conn, port uint16, token string) (net.Conn, error) {
	at := "localhost:" + strconv.Itoa(int(port))
	if _, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s: %s\r\n\r\n", at, at, initialize.Header, token); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(c, 4<<10)
	res, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		_ = res.Body.Close()
		return nil, fmt.Errorf("%w: the daemon answers %d", ErrRefused, res.StatusCode)
	}
	return &begun{c, in}, nil
}

// begun is a connection of which some bytes may have been read already.
type begun struct {
	net.Conn
	in *bufio.Reader
}

// Read implements io.Reader.
func (b *begun) Read(p []byte) (int, error) { return b.in.Read(p) }

// CloseWrite passes on that nothing more will be written.
func (b *begun) CloseWrite() error {
	if half, ok := b.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return b.Close()
}
