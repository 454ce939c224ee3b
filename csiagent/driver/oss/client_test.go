package oss

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/mount/process"
	"github.com/sandgate-dev/sandgate/csiagent/probe"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "probe" {
		os.Exit(probe.Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// prober starts this test binary, without the second that the race detector sleeps at the end of a process.
func prober(timeout time.Duration) *probe.Prober {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return &probe.Prober{Command: []string{"env", "GORACE=atexit_sleep_ms=0", self, "probe"}, Timeout: timeout}
}

// local lets stores be where the tests have theirs.
var local = mount.Guard{Loopback: true}

// store is a real object store; buckets are directories of dir.
type store struct{ dir, url string }

const (
	storeKey    = "AKCANARY7f3d"
	storeSecret = "SKCANARY9b1e"
)

func startStore(t *testing.T) store {
	t.Helper()
	needs(t)
	s := store{dir: t.TempDir()}
	require.NoError(t, os.Mkdir(filepath.Join(s.dir, "data"), 0o755))
	s.url = serve(t, nil, "posix", s.dir)
	return s
}

func (s store) mount() mount.Mount {
	return mount.Mount{
		Attributes: map[string]string{"bucket": "data", "url": s.url},
		Owner:      mount.Owner{UID: 1000, GID: 1001},
		Secret:     mount.Secret{"akId": storeKey, "akSecret": storeSecret},
	}
}

// world is a driver, a staging directory and what must be as before when the test ends.
type world struct {
	*Driver
	dir string
	log *bytes.Buffer
}

func newWorld(t *testing.T, path ...string) world {
	t.Helper()
	w := world{dir: filepath.Join(t.TempDir(), "st aging"), log: &bytes.Buffer{}}
	require.NoError(t, os.Mkdir(w.dir, 0o700))
	w.Driver = New(Config{Path: path, Guard: local, Logger: slog.New(slog.NewTextHandler(&locked{w: w.log}, nil))})
	t.Cleanup(func() {
		require.NoError(t, leftovers(w.dir))
		require.NoError(t, os.Remove(w.dir))
		require.Empty(t, w.clients)
		require.Empty(t, w.holders)
		require.NotContains(t, w.log.String(), "CANARY")
	})
	return w
}

type locked struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// leftovers names a mount on dir or a process that has dir among its arguments.
func leftovers(dir string) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if strings.Contains(string(table), strings.ReplaceAll(dir, " ", `\040`)) {
		return errors.New("still mounted")
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range lines {
		if line, err := os.ReadFile(p); err == nil && strings.Contains(string(line), dir) {
			return fmt.Errorf("still running: %q", line)
		}
	}
	return nil
}

// read is what makes of a mount one that works.
func (w world) read(t *testing.T, src mount.Source) error {
	return prober(0).Read(t.Context(), src.Root, src.FSType)
}

// fault is why m cannot be mounted: a client that has mounted before it knew ends at the first read, and says why.
func (w world) fault(t *testing.T, m mount.Mount) error {
	t.Helper()
	src, err := w.Mount(t.Context(), m, w.dir)
	if err != nil {
		return err
	}
	require.Error(t, w.read(t, src))
	require.NoError(t, src.Root.Close())
	err = w.Explain(t.Context(), src.Client)
	require.NoError(t, w.Unmount(t.Context(), w.dir, src.Client))
	return err
}

// refuses returns why m cannot be mounted: soon, for the reason that is wanted, and without a word that nobody is to read.
func (w world) refuses(t *testing.T, m mount.Mount, want error) error {
	t.Helper()
	begin := time.Now()
	err := w.fault(t, m)
	require.ErrorIs(t, err, want)
	require.NotContains(t, err.Error(), "CANARY")
	require.NotContains(t, err.Error(), w.dir)
	require.Less(t, time.Since(begin), 3*time.Second)
	return err
}

func (w world) up(t *testing.T, m mount.Mount) mount.Source {
	t.Helper()
	src, err := w.Mount(t.Context(), m, w.dir)
	require.NoError(t, err)
	t.Cleanup(func() { _ = src.Root.Close(); _ = w.Unmount(t.Context(), w.dir, src.Client) })
	require.NoError(t, w.read(t, src))
	return src
}

func soon(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), d)
	t.Cleanup(cancel)
	return ctx
}

func TestABucketIsReadAndWrittenAndUploadedBeforeTheClientEnds(t *testing.T) {
	s, w := startStore(t), newWorld(t)
	m := s.mount()
	m.SubPath = "team/a b"
	begin := time.Now()
	src := w.up(t, m)
	t.Logf("ready after %v", time.Since(begin))
	require.Equal(t, "fuse.s3fs", src.FSType)
	require.Empty(t, src.SubPath)
	require.True(t, src.Remote)

	var st unix.Stat_t
	require.NoError(t, unix.Stat(w.dir, &st))
	require.Equal(t, []uint32{1000, 1001, 0o755}, []uint32{st.Uid, st.Gid, st.Mode & 0o7777})
	var fs unix.Statfs_t
	require.NoError(t, unix.Statfs(w.dir, &fs))
	require.EqualValues(t, unix.ST_NOSUID|unix.ST_NODEV, fs.Flags&(unix.ST_NOSUID|unix.ST_NODEV))

	require.NoError(t, os.WriteFile(filepath.Join(w.dir, "hello"), []byte("world"), 0o600))
	require.NoError(t, src.Root.Close())
	require.NoError(t, w.Unmount(soon(t, 10*time.Second), w.dir, src.Client), "it ends by itself")
	content, err := os.ReadFile(filepath.Join(s.dir, "data", "team", "a b", "hello"))
	require.NoError(t, err, "the sub path is the key's prefix")
	require.Equal(t, "world", string(content))
	require.NoError(t, w.Unmount(t.Context(), w.dir, src.Client), "again is no error")
}

func TestTheClientShowsNoSecretAndNothingOfOurEnvironment(t *testing.T) {
	s, w := startStore(t), newWorld(t)
	t.Setenv("SANDGATE_TEST_CANARY", "ENVCANARY")
	src := w.up(t, s.mount())
	for _, what := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", src.Client.PID, what))
		require.NoError(t, err)
		require.NotContains(t, string(b), "CANARY", what)
	}
	require.NotContains(t, w.clients[src.Client].output(), "CANARY")
	var secret unix.Stat_t
	require.NoError(t, unix.Stat(fmt.Sprintf("/proc/%d/fd/3", src.Client.PID), &secret))
	require.EqualValues(t, 0o600, secret.Mode&0o7777)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fd/3", src.Client.PID))
	require.NoError(t, err)
	require.NotContains(t, string(b), "CANARY", "it is signed for")
	b, err = os.ReadFile(fmt.Sprintf("/proc/%d/fd/4/%s", src.Client.PID, keptName))
	require.NoError(t, err)
	require.Contains(t, string(b), "CANARY", "this check can find one")
	sid, err := unix.Getsid(src.Client.PID)
	require.NoError(t, err)
	require.Equal(t, src.Client.PID, sid, "it leads a session of its own")
}

func TestFailuresAreFoundNamedAndCleanedUp(t *testing.T) {
	s := startStore(t)
	for name, c := range map[string]struct {
		change func(*mount.Mount)
		want   error
	}{
		"a wrong secret":        {func(m *mount.Mount) { m.Secret = mount.Secret{"akId": storeKey, "akSecret": "SKCANARYwrong"} }, mount.ErrDenied},
		"not public, after all": {with("authType", "public"), mount.ErrDenied},
		"a bucket that is not":  {with("bucket", "nosuchbucket"), mount.ErrNotFound},
		"a server that is not":  {with("url", "http://127.0.0.1:1"), mount.ErrUnavailable},
		"a machine's own keys":  {with("url", "http://169.254.169.254"), mount.ErrDenied},
		"the same, in disguise": {with("url", "http://[::ffff:169.254.169.254]"), mount.ErrDenied},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			m := s.mount()
			c.change(&m)
			_ = w.refuses(t, m, c.want)
		})
	}
}

func TestReadOnlyHoldsAgainstRootInTheFileSystem(t *testing.T) {
	s, w := startStore(t), newWorld(t)
	m := s.mount()
	m.ReadOnly = true
	w.up(t, m)
	require.ErrorIs(t, os.WriteFile(filepath.Join(w.dir, "x"), nil, 0o600), unix.EROFS)
}

func TestAKilledClientIsExplainedAndUnmounted(t *testing.T) {
	s, w := startStore(t), newWorld(t)
	src := w.up(t, s.mount())
	require.NoError(t, unix.Kill(src.Client.PID, unix.SIGKILL))
	require.Error(t, w.Explain(t.Context(), src.Client))
	require.ErrorIs(t, w.read(t, src), unix.ENOTCONN)
	require.ErrorIs(t, w.Unmount(soon(t, time.Second), w.dir, src.Client), errKilled)
	require.NoError(t, w.Unmount(soon(t, time.Second), w.dir, src.Client), "it is told once")
}

func TestAClientThatIsKilledWhileItFinishesHasLostWhatItHad(t *testing.T) {
	s, w := startStore(t), newWorld(t)
	src := w.up(t, s.mount()) // whose descriptor keeps the mount, and so the client
	lost := make(chan error, 1)
	go func() { lost <- w.Unmount(soon(t, 10*time.Second), w.dir, src.Client) }()
	require.Eventually(t, func() bool { fstype, err := staged(w.dir); return err == nil && fstype == "" }, 20*time.Second, 5*time.Millisecond, "it waits for the client")
	require.NoError(t, unix.Kill(src.Client.PID, unix.SIGKILL))
	require.ErrorIs(t, <-lost, errKilled)
}

// staged is the type of what is mounted on dir.
func staged(dir string) (string, error) {
	table, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer func() { _ = table.Close() }()
	return typeOf(table, dir)
}

func TestAStoppedClientHangsTheProbeAndIsKilledInTheEnd(t *testing.T) {
	s, w := startStore(t), newWorld(t)
	src := w.up(t, s.mount())
	require.NoError(t, unix.Kill(src.Client.PID, unix.SIGSTOP))
	require.ErrorIs(t, prober(200*time.Millisecond).Read(t.Context(), src.Root, src.FSType), probe.ErrHung)
	require.NoError(t, src.Root.Close())
	begin := time.Now()
	require.ErrorIs(t, w.Unmount(soon(t, 200*time.Millisecond), w.dir, src.Client), errKilled)
	require.Less(t, time.Since(begin), 2*time.Second)
}

func TestAnEndedRequestLeavesNothing(t *testing.T) {
	s, w := startStore(t), newWorld(t)
	// A server that accepts and never answers.
	hole, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = hole.Close() }()
	m := s.mount()
	m.Attributes["url"] = "http://" + hole.Addr().String()
	src, err := w.Mount(soon(t, time.Second), m, w.dir)
	if err == nil {
		require.ErrorIs(t, prober(200*time.Millisecond).Read(t.Context(), src.Root, src.FSType), probe.ErrHung)
		require.NoError(t, src.Root.Close())
		require.ErrorIs(t, w.Unmount(soon(t, 0), w.dir, src.Client), errKilled)
	}
}

func TestAnotherProcessWithTheSameNumberIsLeftAlone(t *testing.T) {
	sleep := exec.Command("sleep", "60")
	require.NoError(t, sleep.Start())
	defer func() { _ = sleep.Process.Kill(); _ = sleep.Wait() }()
	is, err := process.Of(sleep.Process.Pid)
	require.NoError(t, err)
	d := New(Config{})
	dir := t.TempDir()
	if os.Getuid() == 0 {
		require.NoError(t, d.Unmount(soon(t, 0), dir, mount.Process{PID: is.PID, Start: is.Start + 1}))
		require.NoError(t, unix.Kill(sleep.Process.Pid, 0), "it lives")
	}
	killed, err := end(soon(t, 0), is)
	require.NoError(t, err)
	require.True(t, killed)
}

func TestTheLogOfAClientCannotGrow(t *testing.T) {
	f, err := logFile()
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	_, err = f.Write(make([]byte, logSize+1))
	require.Error(t, err)
	s, err := secretFile("x")
	require.NoError(t, err)
	defer func() { _ = s.Close() }()
	_, err = s.WriteAt([]byte("y"), 0)
	require.ErrorIs(t, err, unix.EPERM)
}

func TestTheSearchForLeftoversFindsThem(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, leftovers(dir))
	tail := exec.Command("tail", "-f", "/dev/null", "--pid", "1", filepath.Join(dir, "x"))
	require.NoError(t, tail.Start())
	require.Eventually(t, func() bool { return leftovers(dir) != nil }, 20*time.Second, time.Millisecond)
	_ = tail.Process.Kill()
	_ = tail.Wait()
	if os.Getuid() != 0 {
		return
	}
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	require.Error(t, leftovers(dir))
	require.NoError(t, unix.Unmount(dir, 0))
}

func TestAPublicBucketNeedsNoSecret(t *testing.T) {
	s, w := startStore(t), newWorld(t)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "data", "hello"), []byte("world"), 0o644)) //nolint:gosec // it is public
	m := s.mount()
	m.Secret, m.Attributes["authType"] = nil, "public"
	s.open(t)
	w.up(t, m)
	b, err := os.ReadFile(filepath.Join(w.dir, "hello"))
	require.NoError(t, err)
	require.Equal(t, "world", string(b))
	require.Error(t, os.WriteFile(filepath.Join(w.dir, "new"), []byte("x"), 0o600), "everybody may read")
}

// docs/backends.md says so, of s3fs 1.90.
func TestWhatIsCutByItsNameBecomesZerosAndWhatIsOpenIsCut(t *testing.T) {
	s, w := startStore(t), newWorld(t)
	w.up(t, s.mount())
	cut := filepath.Join(w.dir, "cut")
	require.NoError(t, os.WriteFile(cut, []byte("onetwo"), 0o600))
	require.NoError(t, exec.Command("truncate", "-s", "3", cut).Run())
	b, err := os.ReadFile(cut)
	require.NoError(t, err)
	require.Equal(t, "one", string(b), "the program opens it first")
	require.NoError(t, os.Truncate(cut, 2))
	b, err = os.ReadFile(cut)
	require.NoError(t, err)
	require.Equal(t, "\x00\x00", string(b), "when this is red with another version, docs can say so")
}

// open lets everybody read the bucket.
func (s store) open(t *testing.T) {
	t.Helper()
	s.put(t, "/data?policy", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":["s3:GetObject","s3:ListBucket"],"Resource":["arn:aws:s3:::data","arn:aws:s3:::data/*"]}]}`)
}

// put asks as the store's owner.
func (s store) put(t *testing.T, path, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.url+path, strings.NewReader(body))
	require.NoError(t, err)
	signed(t, req, body, "s3")
}
