package channel_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

// tape is a listener that writes down all that it is sent; with a configuration, what is left of that after TLS.
type tape struct {
	addr string

	mu      sync.Mutex
	heard   bytes.Buffer
	greeted int
}

func record(t *testing.T, cfg *tls.Config) *tape {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &tape{addr: l.Addr().String()}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { r.listen(c, cfg) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	return r
}

func (r *tape) listen(c net.Conn, cfg *tls.Config) {
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if cfg != nil {
		c = tls.Server(c, cfg)
		if c.(*tls.Conn).Handshake() == nil {
			r.mu.Lock()
			r.greeted++
			r.mu.Unlock()
		}
	}
	var got bytes.Buffer
	_, _ = io.Copy(&got, c)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard.Write(got.Bytes())
}

// serverConfig is what an impostor with this identity serves with.
func serverConfig(t *testing.T, id channel.Identity) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair(id.Cert, id.Key)
	require.NoError(t, err)
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}}
}

func must(id channel.Identity, err error) channel.Identity {
	if err != nil {
		panic(err)
	}
	return id
}

func TestNothingIsSaidToAnImpostor(t *testing.T) {
	ours, err := channel.NewAuthority(time.Now())
	require.NoError(t, err)
	theirs, err := channel.NewAuthority(time.Now())
	require.NoError(t, err)
	old := time.Now().Add(-100 * 24 * time.Hour)
	tls12 := serverConfig(t, must(ours.Agent("uid-1", time.Now())))
	tls12.MaxVersion = tls.VersionTLS12
	for name, cfg := range map[string]*tls.Config{
		"another sandbox's agent":           serverConfig(t, must(ours.Agent("uid-2", time.Now()))),
		"an agent of another installation":  serverConfig(t, must(theirs.Agent("uid-1", time.Now()))),
		"with a certificate that has ended": serverConfig(t, must(ours.Agent("uid-1", old))),
		"with a client's certificate":       serverConfig(t, must(ours.Client(channel.Gateway, time.Now()))),
		"with an old TLS":                   tls12,
		"without TLS":                       nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := record(t, cfg)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			err := pool(t, client(t, ours, time.Now())).Agent("uid-1", r.addr).Publish(ctx, volume())
			require.Error(t, err)
			require.NotContains(t, err.Error(), "canary")
			r.mu.Lock()
			defer r.mu.Unlock()
			require.NotContains(t, r.heard.String(), "canary")
			require.NotContains(t, r.heard.String(), "uid-1\x00", "not even which volume")
			if cfg != nil {
				require.Zero(t, r.greeted, "it never gets to the end of a handshake")
				require.Zero(t, r.heard.Len())
			}
		})
	}
}

// dialer speaks gRPC with any configuration.
func dialer(t *testing.T, addr string, cfg *tls.Config) csi.NodeClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return csi.NewNodeClient(conn)
}

func TestOnlyOurClientsAreListenedTo(t *testing.T) {
	w := start(t)
	theirs, err := channel.NewAuthority(time.Now())
	require.NoError(t, err)
	old := time.Now().Add(-100 * 24 * time.Hour)
	for name, id := range map[string]*channel.Identity{
		"nobody":                           nil,
		"a client of another installation": ptr(must(theirs.Client(channel.Gateway, time.Now()))),
		"a certificate that has ended":     ptr(must(w.authority.Client(channel.Gateway, old))),
		"another sandbox's agent":          ptr(must(w.authority.Agent("uid-2", time.Now()))),
		"this agent itself":                ptr(must(w.authority.Agent("uid-1", time.Now()))),
	} {
		t.Run(name, func(t *testing.T) {
			cfg := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true} //nolint:gosec // an attacker does not care
			if id != nil {
				pair, err := tls.X509KeyPair(id.Cert, id.Key)
				require.NoError(t, err)
				cfg.Certificates = []tls.Certificate{pair}
				// Whatever is asked for, this is shown.
				cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err := dialer(t, w.addr, cfg).NodePublishVolume(ctx, node.PublishRequest(volume()))
			require.Error(t, err)
			require.Zero(t, w.node.published())
		})
	}
	require.NoError(t, pool(t, client(t, w.authority, time.Now())).Agent("uid-1", w.addr).Publish(t.Context(), volume()), "the agent lives")
}

func ptr[T any](v T) *T { return &v }

func TestAnOldTLSIsNotSpoken(t *testing.T) {
	w := start(t)
	_, err := tls.Dial("tcp", w.addr, &tls.Config{MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true}) //nolint:gosec // an attacker does not care
	require.ErrorContains(t, err, "protocol version")
}

// from dials from an address of its own.
func from(t *testing.T, source, addr string) (net.Conn, error) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: 2 * time.Second}
	c, err := d.Dial("tcp", addr)
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func TestOneAddressCannotTakeEveryPlace(t *testing.T) {
	t.Parallel()
	w := start(t)
	until := time.Now().Add(4 * time.Second) // those who say nothing may stay for longer
	var (
		wg   sync.WaitGroup
		open atomic.Int32
	)
	for range 40 { // which say nothing
		c, err := from(t, "127.0.0.2", w.addr)
		require.NoError(t, err)
		require.NoError(t, c.SetReadDeadline(until))
		wg.Go(func() {
			if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
				open.Add(1) // the others are closed
			}
		})
	}
	a := pool(t, client(t, w.authority, time.Now())).Agent("uid-1", w.addr)
	ctx, cancel := context.WithDeadline(t.Context(), until)
	defer cancel()
	require.NoError(t, a.Publish(ctx, volume()), "the others are served meanwhile")
	wg.Wait()
	require.EqualValues(t, 8, open.Load())

	require.Eventually(t, func() bool { // those who say nothing are sent away
		c, err := from(t, "127.0.0.2", w.addr)
		if err != nil {
			return false
		}
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err = c.Read(make([]byte, 1))
		return err != nil && strings.Contains(err.Error(), "timeout")
	}, 10*time.Second, 200*time.Millisecond)
}

func TestAProbeThatIsTooLongOrTooSlowIsCutOff(t *testing.T) {
	t.Parallel()
	w := start(t)
	insecure := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // as the kubelet does
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: insecure}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+w.addr+"/livez", http.NoBody)
	require.NoError(t, err)
	r.Header.Set("X-Long", strings.Repeat("x", 64<<10))
	res, err := c.Do(r)
	if err == nil { // else the connection was cut
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, res.StatusCode)
	}
	slow, err := tls.Dial("tcp", w.addr, insecure)
	require.NoError(t, err)
	defer func() { _ = slow.Close() }()
	_, err = slow.Write([]byte("GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: "))
	require.NoError(t, err)
	require.NoError(t, slow.SetReadDeadline(time.Now().Add(9*time.Second)))
	_, err = io.Copy(io.Discard, slow)
	require.NoError(t, err, "closed by the server, before our own deadline")
}

func TestAGiantRequestIsRefusedAndTheAgentLives(t *testing.T) {
	w := start(t)
	a := pool(t, client(t, w.authority, time.Now())).Agent("uid-1", w.addr)
	m := volume()
	m.Attributes = map[string]string{"path": strings.Repeat("x", 4<<20)}
	err := a.Publish(t.Context(), m)
	require.Error(t, err)
	require.NotErrorIs(t, err, channel.ErrUnreachable, "another sandbox would not take it either")
	require.Zero(t, w.node.published())
	require.NoError(t, a.Publish(t.Context(), volume()))
}

func TestACallThatPanicsIsOneCallsFault(t *testing.T) {
	w := start(t)
	a := pool(t, client(t, w.authority, time.Now())).Agent("uid-1", w.addr)
	w.node.panics.Store(true)
	err := a.Publish(t.Context(), volume())
	require.ErrorContains(t, err, "internal error")
	w.node.panics.Store(false)
	require.NoError(t, a.Publish(t.Context(), volume()))
}

func TestAUIDThatWouldNameOthersGetsNoCertificate(t *testing.T) {
	a, err := channel.NewAuthority(time.Now())
	require.NoError(t, err)
	for _, uid := range []string{"", "*", "a.b", "-a", "a-", "A", "a b", "a\n", strings.Repeat("a", 64)} {
		_, err := a.Agent(uid, time.Now())
		require.Error(t, err, "%q", uid)
	}
	_, err = a.Client("tenant", time.Now())
	require.Error(t, err)
	id, err := a.Agent("0b1f3c0e-8f1c-4d5e-9b1f-3c0e8f1c4d5e", time.Now())
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(id.Cert, id.Key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	require.NoError(t, err)
	require.Equal(t, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, cert.ExtKeyUsage)
	require.Equal(t, []string{"0b1f3c0e-8f1c-4d5e-9b1f-3c0e8f1c4d5e.sandbox.sandgate.dev"}, cert.DNSNames)
	require.False(t, cert.IsCA)
	require.Greater(t, cert.SerialNumber.BitLen(), 64)
}
