package oss

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// bare are the options that keep a client from answering out of its memory.
func bare(m mount.Mount) mount.Mount {
	m.Attributes["otherOpts"] = "-o max_stat_cache_size=0 -o stat_cache_expire=0 -o enable_noobj_cache"
	return m
}

func TestCredentialsAreReplacedWithoutAFailedReadOrWrite(t *testing.T) {
	for name, kinds := range map[string][]func(*issuer, *testing.T) mount.Secret{
		"tokens":          {(*issuer).issue},
		"access keys":     {(*issuer).key},
		"one and another": {(*issuer).key, (*issuer).issue},
	} {
		t.Run(name, func(t *testing.T) {
			turn := 0
			i := startIssuer(t)
			replaced(t, i, newWorld(t), bare, func() mount.Secret {
				turn++
				return kinds[turn%len(kinds)](i, t)
			})
		})
	}
}

// revoking is a store that tells with which key it is asked, and takes some no more.
type revoking interface {
	mount(s mount.Secret) mount.Mount
	await(t *testing.T, s mount.Secret)
	revoke(s mount.Secret)
	refusals() []string
}

// replaced reads and writes without a pause while one set of credentials takes the place of another.
func replaced(t *testing.T, i revoking, w world, bare func(mount.Mount) mount.Mount, next func() mount.Secret) {
	old := next()
	src := w.up(t, bare(i.mount(old)))
	const size = 1 << 20
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, "big"), make([]byte, 8*size), 0o600))
	open, err := os.Open(filepath.Join(w.dir, "big"))
	require.NoError(t, err)
	defer func() { _ = open.Close() }()

	var wg sync.WaitGroup
	var mu sync.Mutex
	var calls int
	var longest time.Duration
	stop, failed := make(chan struct{}), make(chan error, 64)
	work := func(once func(n int) error) {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				begin := time.Now()
				err := once(n)
				mu.Lock()
				calls, longest = calls+1, max(longest, time.Since(begin))
				mu.Unlock()
				if err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			}
		})
	}
	for range 3 {
		work(func(int) error { _, err := os.ReadDir(w.dir); return err })
		work(func(n int) error {
			fd, err := unix.Open(filepath.Join(w.dir, "big"), unix.O_RDONLY|unix.O_DIRECT, 0)
			if err != nil {
				return err
			}
			defer func() { _ = unix.Close(fd) }()
			_, err = unix.Pread(fd, make([]byte, 4096), int64(n%8)*size)
			return err
		})
	}
	work(func(n int) error {
		return os.WriteFile(filepath.Join(w.dir, fmt.Sprintf("w%d ä+&", n%4)), []byte("x"), 0o600)
	})
	var took []time.Duration
	for range 10 {
		i.await(t, old)
		fresh := next()
		begin := time.Now()
		require.NoError(t, w.Renew(t.Context(), src.Client, i.mount(fresh)))
		took = append(took, time.Since(begin))
		i.revoke(old)
		old = fresh
	}
	i.await(t, old)
	close(stop)
	wg.Wait()
	close(failed)
	slices.Sort(took)
	t.Logf("credentials replaced %d times: p50 %v, max %v until the earlier ones can be revoked; %d reads, lists and writes meanwhile, the longest %v",
		len(took), took[len(took)/2], took[len(took)-1], calls, longest)
	for err := range failed {
		t.Error(err)
	}
	require.Empty(t, i.refusals())
	_, err = open.ReadAt(make([]byte, 8*size), 0)
	require.NoError(t, err, "a file that was open all the time")
}

func TestATokenForATenantsPrefixIsAllThatItsMountNeeds(t *testing.T) {
	i, w := startIssuer(t), newWorld(t)
	for _, tenant := range []string{"a", "b"} {
		require.NoError(t, os.MkdirAll(filepath.Join(i.dir, "data", "team", tenant), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(i.dir, "data", "team", tenant, "f"), []byte(tenant), 0o600))
	}
	scoped := i.issueFor(t, `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":"s3:ListBucket","Resource":"arn:aws:s3:::data","Condition":{"StringLike":{"s3:prefix":["team/a/*"]}}},
		{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject","s3:DeleteObject"],"Resource":["arn:aws:s3:::data/team/a","arn:aws:s3:::data/team/a/*"]}]}`)
	m := i.mount(scoped)
	m.Attributes["path"], m.SubPath = "/team", "a"
	w.up(t, m)
	b, err := os.ReadFile(filepath.Join(w.dir, "f"))
	require.NoError(t, err)
	require.Equal(t, "a", string(b))
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, "g"), []byte("x"), 0o600))

	other, v := i.mount(scoped), newWorld(t)
	other.Attributes["path"], other.SubPath = "/team", "b"
	err = v.fault(t, other)
	require.ErrorIs(t, err, mount.ErrDenied, "the store keeps the tenants apart, whatever the client does")
}

func TestATokenIsInNothingThatTheClientShows(t *testing.T) {
	i, w := startIssuer(t), newWorld(t)
	secret := i.issue(t)
	src := w.up(t, i.mount(secret))
	for _, what := range []string{"cmdline", "environ", "fd/3", "mountinfo"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", src.Client.PID, what))
		require.NoError(t, err)
		for key, value := range secret {
			require.NotContains(t, string(b), value, "%s in %s", key, what)
		}
	}
	kept := fmt.Sprintf("/proc/%d/fd/4/%s", src.Client.PID, keptName)
	st, err := os.Stat(kept)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, st.Mode().Perm())
	st, err = os.Stat(filepath.Dir(kept) + "/")
	require.NoError(t, err)
	require.EqualValues(t, 0o700, st.Mode().Perm())
	table, err := os.ReadFile("/proc/self/net/unix")
	require.NoError(t, err)
	require.NotContains(t, string(table), "@sandgate", "no abstract socket: the sandbox shares the network")
}

func TestATokenThatIsRefusedIsSaidToBe(t *testing.T) {
	i, w := startIssuer(t), newWorld(t)
	secret := i.issue(t)
	m := i.mount(secret)
	i.revoke(secret)
	err := w.fault(t, m)
	require.ErrorIs(t, err, mount.ErrDenied)
	require.NotContains(t, err.Error(), secret["AccessKeyId"])
}

func TestALaterAgentGoesOnSigning(t *testing.T) {
	i, w := startIssuer(t), newWorld(t)
	outlived(t, i, w, bare, i.issue(t), i.issue(t))
}

// outlived has a client live longer than its agent, and the later agent sign for it: with what was left, and with other credentials.
func outlived(t *testing.T, i revoking, w world, bare func(mount.Mount) mount.Mount, first, second mount.Secret) {
	src := w.up(t, bare(i.mount(first)))
	w.holders[src.Client].(*signer).close() // as an agent that ends
	next := New(Config{Guard: local})
	require.NoError(t, next.Adopt(t.Context(), src.Client))
	_, err := os.ReadDir(w.dir)
	require.NoError(t, err, "with what was left")
	require.NoError(t, next.Renew(t.Context(), src.Client, i.mount(second)))
	i.revoke(first)
	_, err = os.ReadDir(w.dir)
	require.NoError(t, err)
	require.NoError(t, src.Root.Close())
	require.NoError(t, next.Unmount(soon(t, 10*time.Second), w.dir, src.Client))
	require.Empty(t, next.holders)
}

func TestAClientThatNobodySignsForIsDialledFor(t *testing.T) {
	s, w := startStore(t), newWorld(t)
	s.open(t)
	m := s.mount()
	m.Secret, m.Attributes["authType"] = nil, "public"
	src := w.up(t, bare(m))
	w.holders[src.Client].close() // as an agent that ends
	next := New(Config{Guard: local})
	require.NoError(t, next.Adopt(t.Context(), src.Client))
	_, err := os.ReadDir(w.dir)
	require.NoError(t, err)
	require.NoError(t, next.Renew(t.Context(), src.Client, m), "it has nothing that could change")
	require.NoError(t, next.Adopt(t.Context(), mount.Process{PID: src.Client.PID, Start: 1}), "another process")
	require.NoError(t, src.Root.Close())
	require.NoError(t, next.Unmount(soon(t, 10*time.Second), w.dir, src.Client))
}

func TestNobodyIsSignedForElsewhere(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: makes a file system")
	}
	var hosts, signatures sync.Map
	behind := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		hosts.Store(r.Host, true)
		signatures.Store(r.Header.Get("Authorization"), true)
	}))
	defer behind.Close()
	to, err := url.Parse(behind.URL)
	require.NoError(t, err)
	r, err := newRoom()
	require.NoError(t, err)
	d := New(Config{Guard: local})
	s, err := newSigner(r, origin{Scheme: to.Scheme, Host: to.Host, Bucket: "data"}, credentials{id: "AK", secret: "SK", token: "T"}, d.dialer().DialContext, d.config.Logger)
	require.NoError(t, err)
	defer s.close()
	ask := func(host, authorization string) int {
		client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			c, err := net.Dial("unix", r.path(socketName))
			if err == nil {
				_, err = c.Write([]byte{5, 1, 0, 5, 1, 0, 3, 1, 'x', 0, 80})
			}
			if err == nil {
				_, err = c.Read(make([]byte, 2))
			}
			if err == nil {
				_, err = c.Read(make([]byte, 10))
			}
			return c, err
		}, DisableKeepAlives: true}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host+"/a", http.NoBody)
		require.NoError(t, err)
		req.Header.Set("Authorization", authorization)
		req.Header.Set("X-Amz-Date", "20260101T000000Z")
		req.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
		res, err := client.Do(req)
		require.NoError(t, err)
		_ = res.Body.Close()
		return res.StatusCode
	}
	const good = "AWS4-HMAC-SHA256 Credential=x/20260101/r/s3/aws4_request, SignedHeaders=host, Signature=0"
	require.Equal(t, http.StatusOK, ask("169.254.169.254", good))
	require.Equal(t, http.StatusServiceUnavailable, ask(to.Host, "AWS x:y"), "what it does not understand it does not sign")
	_, mine := signatures.Load(good)
	require.False(t, mine, "another one took its place")
	s.origin.Unsigned = true
	require.Equal(t, http.StatusOK, ask("169.254.169.254", "AWS x:y"))
	_, its := signatures.Load("AWS x:y")
	require.True(t, its, "as the client has signed it")
	hosts.Range(func(host, _ any) bool {
		require.Equal(t, to.Host, host)
		return true
	})
}

func TestTheFilesOfATokenAreSwappedAsAWhole(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: makes a file system")
	}
	r, err := newRoom()
	require.NoError(t, err)
	h, err := newTokens(r, credentials{id: "A1", secret: "S1", token: "T1"})
	require.NoError(t, err)
	defer h.close()
	read := func() (out []string) {
		dir, err := os.Open(r.path(tokensName) + "/")
		require.NoError(t, err)
		defer func() { _ = dir.Close() }()
		for _, name := range []string{fileID, fileSecret, fileToken} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name))
			require.NoError(t, err)
			out = append(out, string(b))
		}
		return out
	}
	require.Equal(t, []string{"A1", "S1", "T1"}, read())
	next, err := resumeTokens(r)
	require.NoError(t, err)
	for n := range 50 {
		require.NoError(t, next.replace(t.Context(), credentials{id: fmt.Sprint("A", n), secret: "S2", token: "T2", expires: time.Unix(int64(n), 0)}))
		require.Equal(t, []string{fmt.Sprint("A", n), "S2", "T2"}, read())
	}
	require.ErrorIs(t, next.replace(t.Context(), credentials{id: "A", secret: "S"}), mount.ErrInvalid, "no client reads an access key there")
	all, err := os.ReadDir(r.path("."))
	require.NoError(t, err)
	require.Len(t, all, 2, "the link and one directory")
}

func TestCredentialsPrintNothing(t *testing.T) {
	c := credentials{id: "AKCANARY", secret: "SKCANARY", token: "STSCANARY"}
	require.NotContains(t, fmt.Sprintf("%v %+v %#v %s", c, c, &c, c), "CANARY")
}

func TestAnExpiredTokenIsRefusedBeforeAClientIsStarted(t *testing.T) {
	m := example()
	token(&m)
	m.Secret["Expiration"] = "2020-01-01T00:00:00Z"
	require.ErrorIs(t, Check(m, local), mount.ErrDenied)
	m.Secret["Expiration"] = time.Now().Add(time.Minute).UTC().Format(time.RFC3339)
	require.NoError(t, Check(m, local))
	m.Attributes["sigVersion"] = "v1"
	require.ErrorContains(t, Check(m, local), "sigVersion")
}

// A room is known to this process by the number of a descriptor, which another one may have by the time that its socket is closed.
func TestTheEndOfASignerTouchesNoOtherRoom(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: makes a file system")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // the next one is made before the last one notices its end
	begin := func() (*signer, room) {
		r, err := newRoom()
		require.NoError(t, err)
		s, err := newSigner(r, origin{Scheme: "http", Host: "localhost", Bucket: "data"}, credentials{id: "AK", secret: "SK"}, nil, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		return s, r
	}
	same := 0
	for range 100 {
		other, err := os.Open(os.DevNull) // makes room for what the next one needs first
		require.NoError(t, err)
		s, last := begin()
		number := last.dir.Fd()
		require.NoError(t, other.Close())
		s.close()
		s, r := begin()
		runtime.Gosched()
		if number == r.dir.Fd() {
			same++
		}
		_, err = os.Lstat(r.path(socketName))
		require.NoError(t, err)
		s.close()
	}
	require.Positive(t, same, "else this shows nothing")
}
